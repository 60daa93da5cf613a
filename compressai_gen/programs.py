"""What the command lines of this package share: how they start PyTorch, and how they end."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from compressai_gen.errors import CompressaiGenError

if TYPE_CHECKING:
    import torch

__all__ = ["exit_status", "prepare_torch"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare_torch(device: str, threads: int | None) -> torch.device:
    """Sets the number of threads, where one is given, and how memory is had, and returns the device.

    Raises:
        CompressaiGenError: the number is under 1, or the device cannot be used here.
    """
    import torch  # here, as programs ask for help and end without it

    if threads is not None:
        if threads < 1:
            raise CompressaiGenError(f"--threads is {threads}; at least one is needed")
        torch.set_num_threads(threads)
    _keep_freed_memory()
    try:
        return torch.zeros(0, device=device).device
    # PyTorch says by errors of several kinds that a device is unknown, absent or not compiled in.
    except Exception as error:
        raise CompressaiGenError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error


def _keep_freed_memory() -> None:
    """Has glibc keep up to 2 GiB of what is freed for what is asked for next, but for arrays above 256 MiB.

    As it comes, it gives arrays above 32 MiB back to the system, which clears each page of the next one again: at
    3840x2160 pixels a third of all time. Other libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**28)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def exit_status(run: Callable[[], None], interrupted: str) -> int:
    """Runs a program to its exit status.

    Args:
        run: the program; errors of ours are printed as one line.
        interrupted: what to say after Ctrl-C.

    Returns:
        0, that of an error of ours (most have 2), 130 when interrupted, 141 when nobody reads the output any more.
    """
    try:
        run()
        sys.stdout.flush()
    except CompressaiGenError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who read our output has seen enough, as ``| head`` has. What is still buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0

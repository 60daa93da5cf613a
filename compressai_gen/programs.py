"""What the command lines of this package share: how they start PyTorch, and how they end."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from compressai_gen.errors import CompressaiGenError
from compressai_gen.streams import discard_output, flush_output, secure_streams, tell

if TYPE_CHECKING:
    import torch

__all__ = ["exit_status", "prepare_torch"]

_THREADS = 256
"""So many may be asked for on any machine; where there are more, the runtime fails to start them."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare_torch(device: str, threads: int | None) -> torch.device:
    """Sets the number of threads, where one is given, and how memory is had, and returns the device.

    Raises:
        CompressaiGenError: the number is impossible, or the device cannot be used here.
    """
    import torch  # here, as programs ask for help and end without it

    if threads is not None:
        most = max(_THREADS, 4 * (os.cpu_count() or 1))
        if not 1 <= threads <= most:
            raise CompressaiGenError(f"--threads is {threads}; it is a number from 1 to {most} here")
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
        run: the program; errors of ours and of the system are printed as one line.
        interrupted: what to say after Ctrl-C.

    Returns:
        0, that of an error of ours (most have 2), 2 also where the output cannot be written, 130 when interrupted, 141
        when nobody reads the output any more.
    """
    secure_streams()
    status = _status(run, interrupted)
    error = flush_output()
    if error is None or status == _NOBODY_READS:
        return status
    if isinstance(error, BrokenPipeError):
        return _NOBODY_READS
    tell(f"error: standard output cannot be written: {error.strerror}")
    return status or CompressaiGenError.exit_status


_NOBODY_READS = 141


def _status(run: Callable[[], None], interrupted: str) -> int:
    try:
        run()
    except CompressaiGenError as error:
        tell(f"error: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        tell(interrupted)
        return 130
    except BrokenPipeError:
        # Who read our output has seen enough, as ``| head`` has. What is still buffered must not be written at exit.
        discard_output()
        return _NOBODY_READS
    except OSError as error:  # of the system that runs us: a full disk, a folder that is gone
        discard_output()
        tell(f"error: {error.filename or 'standard input or output'}: {error.strerror or error}")
        return CompressaiGenError.exit_status
    except MemoryError:
        tell("error: there is not enough memory")
        return CompressaiGenError.exit_status
    return 0

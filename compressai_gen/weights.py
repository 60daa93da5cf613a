"""Weights that are not part of this package: downloads that torch keeps below ``TORCH_HOME``, and checkpoint files.

Only tensors and plain containers are ever unpickled, so that a file from elsewhere cannot run code.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from compressai_gen.errors import CodecError
from compressai_gen.resources import is_offline

__all__ = ["UNREADABLE", "download_state", "first_line", "read_state", "unavailable", "unwrapped"]

UNREADABLE = EOFError, LookupError, OSError, RuntimeError, ValueError, pickle.UnpicklingError
"""What torch raises where a file of weights cannot be had, or is something else."""


def download_state(owner: str, url: str, check_hash: bool = False, notice: str = "") -> dict[str, Tensor]:
    """Return the state that a URL names, from ``TORCH_HOME`` or, where it is not there yet, by a download to it.

    Args:
        owner: what needs it, for messages.
        url: of the file.
        check_hash: compare a downloaded file with the start of its SHA-256, which ends the file's name.
        notice: what to tell on stderr before a download, such as the licence of the weights.

    Raises:
        CodecError: the file cannot be had, or is not a file of weights.
    """
    name = Path(urlparse(url).path).name
    is_here = (Path(torch.hub.get_dir()) / "checkpoints" / name).exists()
    if is_offline() and not is_here:
        raise CodecError(unavailable(owner, name, ConnectionError("nothing is fetched offline")))
    if notice and not is_here:
        print(notice, file=sys.stderr)
    try:
        # Writes to a temporary file and renames it when it is whole.
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=check_hash, weights_only=True)
    except UNREADABLE as error:
        raise CodecError(unavailable(owner, name, error)) from error


def unavailable(owner: str, name: str, error: Exception) -> str:
    """Return the message for weights of a file name that torch could not load."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        # Torch takes a file that is there for what it should be, and does not download it again.
        return f"{owner} cannot load the weights {path} ({first_line(error)}): if they are damaged, remove that file"
    return (
        f"{owner} needs the weights {name}, which cannot be had here ({first_line(error)}): run once with a network, "
        f"or set TORCH_HOME to a folder that has them as hub/checkpoints/{name}"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state of a checkpoint file, alone or as CompressAI's and other trainers wrap it.

    Raises:
        CodecError: the file is missing, or holds something else.
    """
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CodecError(f"the checkpoint {path} cannot be read: {error}") from error
    except UNREADABLE as error:
        raise CodecError(
            f"{path} is not a checkpoint of tensors alone ({first_line(error)}); where you trust it, load it and save "
            "its state again by torch.save(model.state_dict(), path)"
        ) from error
    # The names that CompressAI's eval_model knows.
    for key in ("network", "state_dict", "model_state_dict"):
        if isinstance(checkpoint, dict) and key in checkpoint:
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, dict) or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise CodecError(f"{path} holds no state of a model, by itself or under 'state_dict'")
    return unwrapped(checkpoint)


def unwrapped(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a model's state without the prefixes that DataParallel and ``torch.compile`` put before all its names."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(name.startswith(prefix) for name in state):
            return unwrapped({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state


def first_line(error: Exception) -> str:
    """Return an error's kind and the first line of what it says; PyTorch's go on for pages."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])

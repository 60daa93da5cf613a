"""The two roles of a model's weights: *coding* is what decides symbols and nothing else, *networks* is the rest.

Files name the coding part by its fingerprint, so that they outlive every training that leaves it as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["ROLES", "belongs", "fingerprint", "split"]

ROLES = ("coding", "networks")


def belongs(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor belongs to parts of a model, such as its coding part.

    Args:
        name: of the tensor.
        parts: names of modules and tensors; one that begins with ``-`` is left out of another.
    """

    def within(part: str) -> bool:
        return name == part or name.startswith(f"{part}.")

    left_out = any(within(part[1:]) for part in parts if part.startswith("-"))
    return not left_out and any(within(part) for part in parts)


def split(state: Mapping[str, Tensor], coding: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of each role; ``coding`` names the parts of the coding one as :func:`belongs` takes them."""
    parts: dict[str, dict[str, Tensor]] = {role: {} for role in ROLES}
    for name, tensor in state.items():
        parts[ROLES[0] if belongs(name, coding) else ROLES[1]][name] = tensor
    return parts


def fingerprint(coding: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of the names, shapes and values of a coding part.

    Floating-point values count as float32, so that weights have the fingerprint of the half-precision file that they
    were read from; the form of the file itself does not count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(coding.items()):
        kind = torch.float32 if tensor.is_floating_point() else torch.int64
        values = tensor.detach().to("cpu", kind).contiguous()
        digest.update(f"{name} {tuple(values.shape)} {kind}\n".encode())
        digest.update(values.numpy().astype(values.numpy().dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()

"""How OpenMP's threads wait, which a program must say before PyTorch is there; nothing here imports PyTorch."""

from __future__ import annotations

import os
import sys

__all__ = ["calm_idle_threads"]


def calm_idle_threads() -> None:
    """Has OpenMP's idle threads sleep after a thousand turns of waiting, unless the user has said how they wait.

    As GNU's OpenMP comes, they burn their core for milliseconds after every parallel region. Where another process
    wants that core, a training step takes five to ten times as long. OpenMP reads its environment when PyTorch loads
    it, so programs call this first of all; later it changes nothing.
    """
    said = "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ
    if "torch" not in sys.modules and not said:
        os.environ["GOMP_SPINCOUNT"] = "1000"

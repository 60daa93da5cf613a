"""Marks of tests that need the networks of the metrics, which torch keeps below ``TORCH_HOME``."""

from pathlib import Path

import pytest
import torch


def _needs(file_name, network):
    found = (Path(torch.hub.get_dir()) / "checkpoints" / file_name).is_file()
    return pytest.mark.skipif(not found, reason=f"TORCH_HOME has no {network} weights")


needs_alex = _needs("alexnet-owt-7be5be79.pth", "AlexNet")
needs_vgg = _needs("vgg16-397923af.pth", "VGG-16")

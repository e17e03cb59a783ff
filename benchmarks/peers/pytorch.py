"""The environment that the peers on PyTorch share, so that torch is downloaded once.

torchvision is wanted for its transforms in Python alone, without its binaries, which belong to exactly one
build of torch: hence --no-deps.
"""

from __future__ import annotations

__all__ = ["ENVIRONMENT", "FOLDER", "TORCH", "TORCHVISION"]

ENVIRONMENT = "pytorch"
TORCH = ("torch==2.13.0", "numpy", "pillow==13.0.0")
#: a DataLoader over a folder, as PyTorch's tuning guide has it
FOLDER = {"container": "folder", "prefetch_factor": 2, "persistent_workers": True}
TORCHVISION = ("--no-deps", "torchvision==0.28.0")

"""The environment shared by the peers that use PyTorch, so that torch is downloaded once.

Only torchvision's transforms are used, which are Python. Its binaries require one specific build of torch:
hence --no-deps.
"""

from __future__ import annotations

__all__ = ["ENVIRONMENT", "FOLDER", "TORCH", "TORCHVISION"]

ENVIRONMENT = "pytorch"
TORCH = ("torch==2.13.0", "numpy", "pillow==13.0.0")
#: a DataLoader over a folder, as PyTorch's tuning guide recommends
FOLDER = {"container": "folder", "prefetch_factor": 2, "persistent_workers": True}
TORCHVISION = ("--no-deps", "torchvision==0.28.0")

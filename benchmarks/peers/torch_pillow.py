"""torch's DataLoader on an ImageFolder, decoded by Pillow, augmented by torchvision: the common way.

As PyTorch's tuning guide and torchvision's reference scripts do: one persistent worker process per core, one
thread in each; transforms v2 on Pillow images, converted to tensors last.
"""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.pytorch import ENVIRONMENT, FOLDER, TORCH, TORCHVISION

__all__ = ["TORCH_PILLOW"]

TORCH_PILLOW = Peer(
    name="torch-pillow",
    script="pillow_worker.py",
    steps=(TORCH, TORCHVISION),
    environment=ENVIRONMENT,
    own=True,
    probe="import torch, PIL; from importlib.metadata import version; version('torchvision')",
    loader={"DataLoader, Pillow": FOLDER | {"resample": "bilinear", "output": "uint8 NCHW"}},
)

"""WebDataset: the same JPEG bytes in tar shards, decoded by Pillow, augmented by torchvision.

As its documentation recommends: each worker shuffles samples in a buffer and batches them, so that whole
batches are sent between processes, and WebLoader passes them on (``batch_size=None``).
"""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.pytorch import ENVIRONMENT, TORCH, TORCHVISION

__all__ = ["WEBDATASET"]

WEBDATASET = Peer(
    name="webdataset",
    script="webdataset_worker.py",
    steps=(TORCH, TORCHVISION, ("webdataset==1.0.2",)),
    environment=ENVIRONMENT,
    own=True,
    probe="import torch, PIL, webdataset; from importlib.metadata import version; version('torchvision')",
    loader={
        "WebDataset, Pillow": {
            "container": "tar", "shuffle": 1000, "prefetch_factor": 2, "persistent_workers": True,
            "resample": "bilinear", "output": "uint8 NCHW",
        }
    },
)  # fmt: skip

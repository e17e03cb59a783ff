"""TorchCodec, to which torchvision's image decoders have moved: ``decode_jpeg`` in DataLoader workers.

The package index's wheel is linked against torch's CUDA build, also for its CPU decoder; beside a torch for
the CPU it does not load. PyTorch's own index has a build for the CPU::

    python -m benchmarks setup-peer torchcodec --pip "--extra-index-url https://download.pytorch.org/whl/cpu"
"""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.pytorch import ENVIRONMENT, TORCH, TORCHVISION

__all__ = ["TORCHCODEC"]

TORCHCODEC = Peer(
    name="torchcodec",
    version="0.17.0",
    script="torchcodec_worker.py",
    steps=(TORCH, TORCHVISION, ("--no-deps", "torchcodec==0.17.0")),
    environment=ENVIRONMENT,
    probe="from torchcodec.decoders import decode_jpeg",
    hint="the package index's wheel needs torch's CUDA build, PyTorch's CPU index has another",
    loader={
        "DataLoader, TorchCodec": {
            "container": "folder", "prefetch_factor": 2, "persistent_workers": True,
            "resample": "bilinear, antialias", "output": "uint8 NCHW",
        }
    },
    decoder={"TorchCodec": {"output": "RGB, CHW"}},
)  # fmt: skip

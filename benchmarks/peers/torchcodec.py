"""TorchCodec, the successor of torchvision's image decoders: ``decode_jpeg`` in DataLoader workers.

The wheel on the package index is linked against torch's CUDA build: it needs that build, though no GPU, and
does not load with a CPU-only torch. So it has a separate environment of 5.6 GB. PyTorch's own index has CPU
builds of all three::

    python -m benchmarks setup-peer torchcodec --pip "--extra-index-url https://download.pytorch.org/whl/cpu"

According to its documentation, on the CPU one image per call is as fast as many, and images need no FFmpeg.
As torchvision recommends: transforms v2 on uint8 tensors, antialiased.
"""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["TORCHCODEC"]

TORCHCODEC = Peer(
    name="torchcodec",
    script="torchcodec_worker.py",
    steps=(("torch==2.14.1", "torchvision==0.29.1", "torchcodec==0.17.0"),),
    probe="from torchcodec.decoders import decode_jpeg",
    hint="the package index's wheel needs torch's CUDA build; PyTorch's CPU index has another",
    loader={
        "DataLoader, TorchCodec": {
            "container": "folder", "prefetch_factor": 2, "persistent_workers": True,
            "resample": "bilinear, antialias", "output": "uint8 NCHW",
        }
    },
    decoder={"TorchCodec": {"output": "RGB, CHW"}},
)  # fmt: skip

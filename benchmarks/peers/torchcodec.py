"""TorchCodec, to which torchvision's image decoders have moved: ``decode_jpeg`` in DataLoader workers.

The package index's wheel is linked against torch's CUDA build, also for its CPU decoder: it needs that build,
not a GPU, and does not load beside a torch for the CPU. So it has an environment of its own, 5.6 GB.
PyTorch's own index has all three for the CPU::

    python -m benchmarks setup-peer torchcodec --pip "--extra-index-url https://download.pytorch.org/whl/cpu"

As its documentation has it: on the CPU one image a call is as fast as many, and images need no FFmpeg. As
torchvision's has it: transforms v2 on uint8 tensors, resized with antialiasing.
"""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["TORCHCODEC"]

TORCHCODEC = Peer(
    name="torchcodec",
    script="torchcodec_worker.py",
    steps=(("torch==2.14.1", "torchvision==0.29.1", "torchcodec==0.17.0"),),
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

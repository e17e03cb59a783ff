"""NVIDIA DALI's CPU pipeline, which needs no GPU.

As its documentation recommends: the file reader shuffles and reads ahead, ``image_random_crop`` decodes only
what the crop needs if possible, one thread per core. The build for CUDA 12 is nvidia-dali-cuda120.
"""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["DALI"]

DALI = Peer(
    name="dali",
    script="dali_worker.py",
    steps=(("nvidia-dali-cuda130==2.4.0", "numpy"),),
    probe="import nvidia.dali.fn",
    loader={
        "DALI (CPU)": {
            "container": "folder", "prefetch_queue_depth": 2, "resample": "linear, antialias",
            "output": "uint8 NHWC",
        }
    },
    decoder={"DALI (CPU)": {"prefetch_queue_depth": 2, "output": "RGB"}},
)  # fmt: skip

"""torch's DataLoader with OpenCV, which decodes, crops and resizes by area, as FFCV and ffcv_gpu do.

OpenCV's threads are off in the workers, as is recommended with a DataLoader: the processes are the
parallelism.
"""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.pytorch import ENVIRONMENT, FOLDER, TORCH

__all__ = ["TORCH_OPENCV"]

TORCH_OPENCV = Peer(
    name="torch-opencv",
    script="opencv_worker.py",
    steps=(TORCH, ("opencv-python-headless==5.0.0.93",)),
    environment=ENVIRONMENT,
    own=True,
    probe="import torch, cv2",
    loader={"DataLoader, OpenCV": FOLDER | {"resample": "area", "output": "uint8 NHWC"}},
)

"""Pillow and OpenCV as bare decoders; both are installed with the suite."""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["OPENCV", "PILLOW"]

PILLOW = Peer(
    name="pillow",
    script="pillow_worker.py",
    own=True,
    probe="import PIL",
    hint="pip install pillow",
    decoder={"Pillow": {"output": "Pillow image"}},
)
OPENCV = Peer(
    name="opencv",
    script="opencv_worker.py",
    own=True,
    probe="import cv2",
    hint="pip install opencv-python-headless",
    decoder={"OpenCV": {"output": "RGB", "opencv_threads": 1}},
)

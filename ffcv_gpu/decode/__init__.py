"""JPEG decoding alone: a list of encoded images in, a list of pixels out, no dataset file needed."""

from __future__ import annotations

from ffcv_gpu.decode.jpegs import decode_jpegs, trim_memory
from ffcv_gpu.jpeg.base import DecodeStatus

__all__ = ["DecodeStatus", "decode_jpegs", "trim_memory"]

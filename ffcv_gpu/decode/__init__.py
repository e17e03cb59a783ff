"""JPEG decoding by itself: a list of encoded images in, a list of decoded images out, without a dataset."""

from __future__ import annotations

from ffcv_gpu.decode.jpegs import decode_jpegs, trim_memory
from ffcv_gpu.jpeg.base import DecodeStatus

__all__ = ["DecodeStatus", "decode_jpegs", "trim_memory"]

"""What FFCV's users put at the head of a pipeline: how a stored value is read.

These are descriptions; `ffcv_gpu.jpeg` turns JPEG bytes into pixels.
"""

from __future__ import annotations

from ffcv_gpu.fields.decoders.images import (
    CenterCropRGBImageDecoder,
    CornerCropRGBImageDecoder,
    ImageDecoder,
    PadRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
    ResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.fields.decoders.values import (
    BasicDecoder,
    BytesDecoder,
    FloatDecoder,
    IntDecoder,
    NDArrayDecoder,
)

__all__ = [
    "BasicDecoder",
    "BytesDecoder",
    "CenterCropRGBImageDecoder",
    "CornerCropRGBImageDecoder",
    "FloatDecoder",
    "ImageDecoder",
    "IntDecoder",
    "NDArrayDecoder",
    "PadRGBImageDecoder",
    "RandomResizedCropRGBImageDecoder",
    "ResizedCropRGBImageDecoder",
    "SimpleRGBImageDecoder",
]

"""The decoders that FFCV's users put first in a pipeline: how a stored value is read.

These are descriptions; `ffcv_gpu.jpeg` decodes JPEG bytes into pixels.
"""

from __future__ import annotations

from ffcv_gpu.fields.decoders.crops import (
    CenterCropRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
    ResizedCropRGBImageDecoder,
)
from ffcv_gpu.fields.decoders.images import (
    CornerCropRGBImageDecoder,
    ImageDecoder,
    PadRGBImageDecoder,
    ResizedRGBImageDecoder,
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
    "ResizedRGBImageDecoder",
    "SimpleRGBImageDecoder",
]

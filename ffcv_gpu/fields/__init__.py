"""Field types: how one value of a sample is stored. A new one is one file here.

What FFCV's users put at the head of a pipeline stands in `decoders`; a field names its own by string.
"""

from __future__ import annotations

from ffcv_gpu.fields.base import Field
from ffcv_gpu.fields.basics import FloatField, IntField
from ffcv_gpu.fields.bytes import BytesField
from ffcv_gpu.fields.json import JSONField
from ffcv_gpu.fields.ndarray import NDArrayField, TorchTensorField
from ffcv_gpu.fields.rgb_image import RGBImageField

__all__ = [
    "BytesField",
    "Field",
    "FloatField",
    "IntField",
    "JSONField",
    "NDArrayField",
    "RGBImageField",
    "TorchTensorField",
]

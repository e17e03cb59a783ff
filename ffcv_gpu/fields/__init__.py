"""Field types: how one value of a sample is stored. Each type is one file here.

`decoders` has what FFCV's users put first in a pipeline; a field names its default decoder by string.
"""

from __future__ import annotations

from typing import Any

from ffcv_gpu.fields.base import Field, own_description
from ffcv_gpu.fields.basics import FloatField, IntField
from ffcv_gpu.fields.bytes import BytesField
from ffcv_gpu.fields.image import ImageField, MaskField
from ffcv_gpu.fields.json import JSONField
from ffcv_gpu.fields.ndarray import NDArrayField, TorchTensorField
from ffcv_gpu.fields.ragged import RaggedField
from ffcv_gpu.fields.rgb_image import RGBImageField

__all__ = [
    "BytesField",
    "Field",
    "FloatField",
    "ImageField",
    "IntField",
    "JSONField",
    "MaskField",
    "NDArrayField",
    "RGBImageField",
    "RaggedField",
    "TorchTensorField",
    "own_class",
]

#: field types that FFCV does not have
OWN_FIELDS = {kind.__name__: kind for kind in (ImageField, MaskField, RaggedField)}


def own_class(arguments: bytes) -> Any:
    """Return the class of a field of type 255 if it is one of ours; None if it is a user's own.

    Parameters
    ----------
    arguments : bytes
        The 1024 argument bytes of its descriptor in the file.
    """
    return OWN_FIELDS.get(own_description(arguments)[0])

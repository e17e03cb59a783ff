"""FFCV's module path of the file format's structures; re-exports only."""

from __future__ import annotations

from ffcv_gpu.dataset.reader import get_handlers, get_metadata_type
from ffcv_gpu.dataset.stored import BUILTIN_FIELDS as TYPE_ID_HANDLER
from ffcv_gpu.fields import (
    BytesField,
    Field,
    FloatField,
    IntField,
    JSONField,
    NDArrayField,
    RGBImageField,
    TorchTensorField,
)
from ffcv_gpu.format import ALLOC_TABLE_TYPE, CURRENT_VERSION, FieldDescType, HeaderType

__all__ = [
    "ALLOC_TABLE_TYPE",
    "CURRENT_VERSION",
    "TYPE_ID_HANDLER",
    "BytesField",
    "Field",
    "FieldDescType",
    "FloatField",
    "HeaderType",
    "IntField",
    "JSONField",
    "NDArrayField",
    "RGBImageField",
    "TorchTensorField",
    "get_handlers",
    "get_metadata_type",
]

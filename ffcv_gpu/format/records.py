"""The record of each kind of field, and the facts recorded about each stored image."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "JPEG_FACTS", "RECORD_DTYPES", "ImageMode", "JpegFlag", "TypeId", "has_crop_index", "no_facts",
]  # fmt: skip


class TypeId(IntEnum):
    """Values of a field descriptor's ``type_id``; set by the exact class, so a subclass is CUSTOM."""

    FLOAT = 0
    INT = 1
    RGB_IMAGE = 2
    BYTES = 3
    NDARRAY = 4
    JSON = 5
    TENSOR = 6
    CUSTOM = 255


class ImageMode(IntEnum):
    """How an image's payload is stored."""

    JPEG = 0
    RAW = 1


# Packed (alignment 1), as in FFCV: that decides where the next field of a record begins.
_IMAGE_RECORD = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_BYTES_RECORD = np.dtype([("ptr", "<u8"), ("size", "<u8")])

RECORD_DTYPES: Final[Mapping[int, np.dtype[Any]]] = MappingProxyType(
    {
        TypeId.FLOAT: np.dtype("<f8"),
        TypeId.INT: np.dtype("<i8"),
        TypeId.RGB_IMAGE: _IMAGE_RECORD,
        TypeId.BYTES: _BYTES_RECORD,
        TypeId.NDARRAY: np.dtype("<u8"),
        TypeId.JSON: _BYTES_RECORD,
        TypeId.TENSOR: np.dtype("<u8"),
    }
)
"""Each built-in field's record for one sample, by type id; a custom field defines its own."""

JPEG_FACTS: Final = np.dtype(
    [
        ("subsampling", "i1"),
        ("encoding", "u1"),
        ("components", "u1"),
        ("exif_orientation", "u1"),
        ("flags", "<u2"),
    ]
)
"""What a decoder needs to know about a stored JPEG before reading it; 6 bytes, packed.

``subsampling`` is nvJPEG's enum (0 4:4:4, 1 4:2:2, 2 4:2:0, 3 4:4:0, 4 4:1:1, 5 4:1:0, 6 grey, -1
unknown), ``encoding`` the second byte of the start-of-frame marker (0xC0 baseline ...; 0: the payload is
not a JPEG), ``exif_orientation`` 1 to 8, or 0 for unknown, ``flags`` a `JpegFlag`.
"""


def no_facts(count: int) -> npt.NDArray[Any]:
    """Return rows of payloads that are not JPEGs, `JPEG_FACTS` (count,)."""
    return np.full(count, np.array((-1, 0, 0, 0, 0), JPEG_FACTS))


class JpegFlag(IntFlag):
    """Bits of ``JPEG_FACTS["flags"]``."""

    RESTART = 1
    MULTI_SCAN = 2
    RGB_CODED = 4
    CMYK = 8
    TABLES_16BIT = 16
    DECODE_CHECKED = 32
    TRANSCODED = 64
    LOSSLESS_REWRITTEN = 128
    CROP_INDEX = 256


def has_crop_index(facts: npt.NDArray[Any] | None) -> bool:
    """Return whether any JPEG of these facts, `JPEG_FACTS` (n,), has an index for crops."""
    return facts is not None and bool((facts["flags"] & int(JpegFlag.CROP_INDEX)).any())

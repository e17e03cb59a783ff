"""The ``.beton`` file, version 2, as FFCV writes and reads it, and our checksums in it.

``layout`` and ``records`` hold the fixed parts and how to pack them; ``section`` and ``sealing`` read and
build the checksums and image facts that FFCV passes over; ``beton`` is an open file, ``payloads`` where its
samples lie, ``index`` opens and checks.
Payload bytes are left to the readers, their meaning to the fields.
"""

from __future__ import annotations

from ffcv_gpu.format.beton import Beton
from ffcv_gpu.format.index import open_beton, verify_structure
from ffcv_gpu.format.layout import (
    ALLOC_TABLE_TYPE,
    ARGUMENT_BYTES,
    CURRENT_VERSION,
    DEFAULT_PAGE_SIZE,
    MAX_NAME_BYTES,
    MAX_PAGE_SIZE,
    MAX_SIDE,
    MIN_PAGE_SIZE,
    FieldDescriptor,
    FieldDescType,
    FileLayout,
    HeaderType,
    align_up,
    metadata_dtype,
    pack_descriptors,
    pack_header,
    page_size_is_valid,
    unpack_descriptors,
)
from ffcv_gpu.format.records import JPEG_FACTS, RECORD_DTYPES, ImageMode, JpegFlag, TypeId
from ffcv_gpu.format.sealing import build_section, section_size
from ffcv_gpu.format.section import Section, crc32c

__all__ = [
    "ALLOC_TABLE_TYPE",
    "ARGUMENT_BYTES",
    "CURRENT_VERSION",
    "DEFAULT_PAGE_SIZE",
    "JPEG_FACTS",
    "MAX_NAME_BYTES",
    "MAX_PAGE_SIZE",
    "MAX_SIDE",
    "MIN_PAGE_SIZE",
    "RECORD_DTYPES",
    "Beton",
    "FieldDescType",
    "FieldDescriptor",
    "FileLayout",
    "HeaderType",
    "ImageMode",
    "JpegFlag",
    "Section",
    "TypeId",
    "align_up",
    "build_section",
    "crc32c",
    "metadata_dtype",
    "open_beton",
    "pack_descriptors",
    "pack_header",
    "page_size_is_valid",
    "section_size",
    "unpack_descriptors",
    "verify_structure",
]

"""The ``.beton`` file, version 2, as FFCV writes and reads it, with ffcv_gpu's checksums.

``layout`` and ``records`` define the fixed parts and pack them. ``section`` and ``sealing`` read and build
the part that FFCV ignores (checksums and image facts), ``notes`` its names. ``beton`` is an open file,
``payloads`` locates its samples, ``index`` opens and checks it. README.md in this folder describes the
format on one page. Readers read the payload bytes; fields interpret them.
"""

from __future__ import annotations

from ffcv_gpu.format.beton import Beton
from ffcv_gpu.format.faults import structure_notes, verify_structure
from ffcv_gpu.format.index import open_beton, read_descriptors
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
from ffcv_gpu.format.notes import Skipped, SourceIds, pack_source_ids
from ffcv_gpu.format.records import (
    JPEG_FACTS,
    RECORD_DTYPES,
    ImageMode,
    JpegFlag,
    TypeId,
    has_crop_index,
    no_facts,
)
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
    "Skipped",
    "SourceIds",
    "TypeId",
    "align_up",
    "build_section",
    "crc32c",
    "has_crop_index",
    "metadata_dtype",
    "no_facts",
    "open_beton",
    "pack_descriptors",
    "pack_header",
    "pack_source_ids",
    "page_size_is_valid",
    "read_descriptors",
    "section_size",
    "structure_notes",
    "unpack_descriptors",
    "verify_structure",
]

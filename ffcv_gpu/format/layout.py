"""The fixed parts of a ``.beton`` file, version 2: header, field descriptors, records, table entries.

Reads like the specification and does no input or output; ``index`` opens files, ``section`` holds the
checksums. All integers are little-endian; all offsets are in bytes from the start of the file::

    0                  header                  24 bytes
    24                 field descriptors       1041 bytes each
    metadata_offset    metadata table          one record per sample
    data_offset        pages                   page_size bytes each, from the first multiple of page_size
                       integrity section       optional, added by ffcv_gpu; FFCV ignores it
    alloc_table_ptr    allocation table        24 bytes per entry, to the end of the file
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ffcv_gpu.errors import FormatError

__all__ = [
    "ALLOC_TABLE_TYPE",
    "ARGUMENT_BYTES",
    "CURRENT_VERSION",
    "DEFAULT_PAGE_SIZE",
    "MAX_NAME_BYTES",
    "MAX_PAGE_SIZE",
    "MAX_SIDE",
    "MIN_PAGE_SIZE",
    "FieldDescType",
    "FieldDescriptor",
    "FileLayout",
    "HeaderType",
    "align_up",
    "metadata_dtype",
    "pack_descriptors",
    "pack_header",
    "page_size_is_valid",
    "unpack_descriptors",
]

CURRENT_VERSION: Final = 2
MIN_PAGE_SIZE: Final = 1 << 21
MAX_PAGE_SIZE: Final = 1 << 32  # exclusive: the header stores the page size in 32 bits
DEFAULT_PAGE_SIZE: Final = 1 << 23
MAX_NAME_BYTES: Final = 16
ARGUMENT_BYTES: Final = 1024
MAX_SIDE: Final = 65535

HeaderType: Final = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
FieldDescType: Final = np.dtype(
    [("type_id", "u1"), ("name", "u1", (MAX_NAME_BYTES,)), ("arguments", "u1", (ARGUMENT_BYTES,))]
)
ALLOC_TABLE_TYPE: Final = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


@dataclass(frozen=True)
class FieldDescriptor:
    """A field as described in the file.

    Attributes
    ----------
    name
        at most 16 ASCII characters
    type_id
        a `TypeId`
    arguments
        exactly 1024 bytes, whose meaning only the field's class knows
    """

    name: str
    type_id: int
    arguments: bytes = bytes(ARGUMENT_BYTES)


def align_up(value: int, multiple: int) -> int:
    """``value`` rounded up to the next multiple of ``multiple``."""
    return -(-value // multiple) * multiple


def page_size_is_valid(page_size: int) -> bool:
    """Whether FFCV's writer accepts this page size: a power of two, 2 MiB <= page_size < 4 GiB."""
    return MIN_PAGE_SIZE <= page_size < MAX_PAGE_SIZE and page_size & (page_size - 1) == 0


def metadata_dtype(record_dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """The record of one sample: numpy's aligned struct of the fields' own records, named f0, f1, ..."""
    return np.dtype([(f"f{k}", dtype) for k, dtype in enumerate(record_dtypes)], align=True)


@dataclass(frozen=True)
class FileLayout:
    """Where the parts of a file lie, computed from what is known before the first sample is written.

    Attributes
    ----------
    page_size
        bytes in a page, a power of two
    num_samples
        records in the metadata table
    descriptors
        the fields, in the order of the record's members
    dtype
        the record of one sample, from `metadata_dtype`
    """

    page_size: int
    num_samples: int
    descriptors: tuple[FieldDescriptor, ...]
    dtype: np.dtype[Any]

    @property
    def descriptors_offset(self) -> int:
        """Where the field descriptors begin: right after the header."""
        return HeaderType.itemsize

    @property
    def metadata_offset(self) -> int:
        """Where the metadata table begins; not aligned to anything."""
        return self.descriptors_offset + FieldDescType.itemsize * len(self.descriptors)

    @property
    def metadata_end(self) -> int:
        """First byte after the metadata table."""
        return self.metadata_offset + self.dtype.itemsize * self.num_samples

    @property
    def data_offset(self) -> int:
        """Where the first page begins (if the file has pages): a multiple of ``page_size``."""
        return align_up(self.metadata_end, self.page_size)


def pack_header(*, num_fields: int, page_size: int, num_samples: int, alloc_table_ptr: int = 0) -> bytes:
    """The 24 bytes of the header; ``alloc_table_ptr=0`` marks a file that is not completely written."""
    if not page_size_is_valid(page_size):
        raise FormatError(
            f"page size {page_size}: expected a power of two, {MIN_PAGE_SIZE} <= page_size < {MAX_PAGE_SIZE}"
        )
    if not 0 < num_fields < 1 << 16:
        raise FormatError(f"{num_fields} fields: a file has 1 to 65535")
    row = (CURRENT_VERSION, num_fields, page_size, num_samples, alloc_table_ptr)
    return np.array(row, HeaderType).tobytes()


def pack_descriptors(descriptors: Iterable[FieldDescriptor]) -> bytes:
    """The field descriptors as stored, 1041 bytes each.

    Raises
    ------
    FormatError
        for a name that is not ASCII, longer than 16 bytes or used twice, or arguments that are not
        1024 bytes. FFCV truncates long names silently, and two that then agree make it read every later
        column from the wrong offset, so such names are refused before anything is written.
    """
    descriptors = tuple(descriptors)
    for field in descriptors:
        if not field.name.isascii() or "\0" in field.name or len(field.name) > MAX_NAME_BYTES:
            raise FormatError(
                f"field name {field.name!r}: choose a name of at most {MAX_NAME_BYTES} ASCII characters"
            )
        if len(field.arguments) != ARGUMENT_BYTES:
            raise FormatError(
                f"field {field.name!r}: {len(field.arguments)} argument bytes, expected {ARGUMENT_BYTES}"
            )
    _refuse_equal_names([field.name for field in descriptors])
    return b"".join(
        bytes([field.type_id]) + field.name.encode("ascii").ljust(MAX_NAME_BYTES, b"\0") + field.arguments
        for field in descriptors
    )


def unpack_descriptors(data: bytes) -> tuple[FieldDescriptor, ...]:
    """The inverse of `pack_descriptors`; `FormatError` for names that are not ASCII or not unique."""
    fields = []
    for k, row in enumerate(np.frombuffer(data, FieldDescType)):
        raw = row["name"].tobytes().rstrip(b"\0")
        if b"\0" in raw or not raw.isascii():
            offset = HeaderType.itemsize + k * FieldDescType.itemsize
            raise FormatError(
                f"field {k}, byte {offset}: its name {raw!r} is not ASCII: not a .beton file, or damaged"
            )
        fields.append(FieldDescriptor(raw.decode("ascii"), int(row["type_id"]), row["arguments"].tobytes()))
    _refuse_equal_names([field.name for field in fields])
    return tuple(fields)


def _refuse_equal_names(names: list[str]) -> None:
    if len(set(names)) != len(names):
        # Counted in one pass: a hostile header may name 65535 fields.
        twice = Counter(names).most_common(1)[0][0]
        raise FormatError(
            f"two fields are called {twice!r} (names are truncated to {MAX_NAME_BYTES} bytes): their columns"
            f" cannot be told apart; use names that differ in the first {MAX_NAME_BYTES} characters"
        )

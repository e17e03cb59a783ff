"""Where each sample's payload lies and how long it is: vectorised lookups in the allocation table.

A record holds pointers; lengths are in the table, which is in no particular order. Empty entries are
excluded from the lookup: they share their pointer with the next allocation, and a reader that finds the
wrong one of the two returns an empty payload instead of the real one (FFCV does).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format.layout import FieldDescriptor
from ffcv_gpu.format.records import RECORD_DTYPES, ImageMode, TypeId

__all__ = ["DataRegion", "PayloadTable", "Payloads", "check_table", "pages_of_samples", "payloads_of"]

_Ints = npt.NDArray[np.int64]
_Pointers = npt.NDArray[np.uint64]
_ROWS_AT_ONCE: Final = 1 << 20  # bounds temporary memory: a sparse file may have any number of entries


@dataclass(frozen=True)
class DataRegion:
    """The byte range of a file where payloads may lie, and the file's path for messages."""

    path: str
    start: int
    end: int

    def outside(self, pointers: _Pointers, sizes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which of the non-empty payloads (n,) do not lie entirely inside; free of integer overflow."""
        room = np.uint64(self.end) - np.minimum(pointers, np.uint64(self.end))
        return (sizes > 0) & ((pointers < np.uint64(self.start)) | (sizes.astype(np.uint64) > room))


@dataclass(frozen=True)
class Payloads:
    """One field's payloads, all (num_samples,) int64 and read-only.

    ``offsets`` and ``lengths`` are in bytes, both 0 for an empty payload; ``entries`` are rows of the
    allocation table, -1 for none.
    """

    offsets: _Ints
    lengths: _Ints
    entries: _Ints


def check_table(allocations: npt.NDArray[Any], region: DataRegion) -> None:
    """Raise `FormatError` for a table with an entry whose bytes do not lie inside the pages."""
    for lo in range(0, len(allocations), _ROWS_AT_ONCE):
        part = allocations[lo : lo + _ROWS_AT_ONCE]
        bad = region.outside(part["ptr"], part["size"])
        if bad.any():
            k = np.argmax(bad)
            raise FormatError(
                f"{region.path}: entry {lo + k} of the allocation table {part[k]} (sample, offset, size) lies"
                f" outside the pages, bytes {region.start} to {region.end}; the table is damaged, or bytes"
                " follow it: write or fetch the file again"
            )


def pages_of_samples(allocations: npt.NDArray[Any], num_samples: int, page_size: int) -> _Ints:
    """Page number of each sample's payloads, (num_samples,) int64; -1 for a sample without any.

    Ignores empty entries (their pointer may be one page off) and entries of samples that do not exist.
    """
    pages = np.full(num_samples, -1, np.int64)
    shift = np.uint64(page_size.bit_length() - 1)
    for lo in range(0, len(allocations), _ROWS_AT_ONCE):
        part = allocations[lo : lo + _ROWS_AT_ONCE]
        used = part[(part["size"] > 0) & (part["sample_id"] < num_samples)]
        pages[used["sample_id"].astype(np.int64)] = used["ptr"] >> shift
    pages.setflags(write=False)
    return pages


class PayloadTable:
    """The allocation table, sorted once, to find a sample's payload by its pointer."""

    def __init__(self, allocations: npt.NDArray[Any], region: DataRegion) -> None:
        self.region = region
        self._allocations = allocations
        rows = np.flatnonzero(allocations["size"])
        pointers = allocations["ptr"][rows]
        if not np.all(pointers[1:] >= pointers[:-1]):
            order = np.argsort(pointers)
            rows, pointers = rows[order], pointers[order]
        self._rows, self._pointers = rows, pointers

    def find(self, pointers: _Pointers) -> _Ints:
        """Row of the allocation table for the payload of each sample, (num_samples,); -1 where it has none.

        The row has the sample's pointer and belongs to the sample; it is an empty one only if there is no
        other.
        """
        if not len(self._pointers):
            return self._find_exactly(pointers, np.arange(len(pointers)), len(pointers))
        at = np.searchsorted(self._pointers, pointers)
        np.minimum(at, len(self._pointers) - 1, out=at)
        rows = self._rows[at]
        own = self._allocations["sample_id"][rows] == np.arange(len(pointers), dtype=np.uint64)
        other = np.flatnonzero(~own | (self._pointers[at] != pointers))
        if len(other):
            rows[other] = self._find_exactly(pointers[other], other, len(pointers))
        return rows

    def _find_exactly(self, pointers: _Pointers, samples: _Ints, num_samples: int) -> _Ints:
        """Rows by pointer and sample, for pointers that several entries share, or that no entry has."""
        table, distinct = self._allocations, np.unique(pointers)
        rows = np.flatnonzero(np.isin(table["ptr"], distinct) & (table["sample_id"] < num_samples))
        if not len(rows):
            return np.full(len(pointers), -1)
        keys = np.searchsorted(distinct, table["ptr"][rows]) * num_samples + table["sample_id"][rows].astype(
            np.int64
        )
        order = np.lexsort((table["size"][rows] == 0, keys))
        keys, rows = keys[order], rows[order]
        wanted = np.searchsorted(distinct, pointers) * num_samples + samples
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, rows[at], -1)

    def sizes(self, rows: _Ints) -> _Ints:
        """Bytes of the payloads in these rows; 0 for row -1."""
        sizes = np.zeros(len(rows), np.int64)
        sizes[rows >= 0] = self._allocations["size"][rows[rows >= 0]]
        return sizes


def payloads_of(
    field: FieldDescriptor, column: npt.NDArray[Any], table: PayloadTable, pointer: str | None = None
) -> Payloads:
    """The payloads of one field.

    Parameters
    ----------
    field, column
        the field and its (num_samples,) records
    table
        of the same file
    pointer
        for a custom record: the member that holds the offset. Not needed for records that look like
        a built-in field's own.

    Raises
    ------
    FormatError
        naming file, sample, field and offset, if a payload lies outside the pages or the table has no
        entry of that sample, offset and length; or if a custom record needs `pointer` and it is not given
    """
    if pointer is None and column.dtype.names is None and column.dtype != RECORD_DTYPES[TypeId.NDARRAY]:
        none = np.zeros(len(column), np.int64)
        none.setflags(write=False)
        return Payloads(none, none, np.broadcast_to(np.int64(-1), len(column)))
    pointers, lengths = _stored(field, column, table.region, pointer)
    rows = table.find(pointers)
    sizes, unsaid = table.sizes(rows), lengths < 0
    np.copyto(lengths, sizes, where=unsaid)
    outside = table.region.outside(pointers, lengths)
    _refuse(outside, "lies outside the pages", field, pointers, lengths, table.region)
    # A custom field may store nothing for a value; an empty JPEG or array is damage.
    missing = rows < 0 if field.type_id == TypeId.CUSTOM else lengths == 0
    wrong = np.where(unsaid, missing, (lengths > 0) & (lengths != sizes))
    _refuse(wrong, "has no matching entry in the allocation table", field, pointers, lengths, table.region)
    _check_shape(field, pointers, lengths, table.region)
    empty = lengths == 0
    rows[empty] = -1
    offsets = np.where(empty, 0, pointers).astype(np.int64)
    for array in (offsets, lengths, rows):
        array.setflags(write=False)
    return Payloads(offsets, lengths, rows)


def _stored(
    field: FieldDescriptor, column: npt.NDArray[Any], region: DataRegion, pointer: str | None
) -> tuple[_Pointers, _Ints]:
    """Pointers and lengths from the records; a length is -1 if only the table has it."""
    unsaid = np.full(len(column), -1, np.int64)
    if pointer is not None:
        return (column[pointer] if pointer else column).astype(np.uint64), unsaid
    if column.dtype == RECORD_DTYPES[TypeId.RGB_IMAGE]:
        return column["data_ptr"].astype(np.uint64), _image_lengths(field, column, region)
    if column.dtype == RECORD_DTYPES[TypeId.BYTES]:
        pointers, sizes = column["ptr"].astype(np.uint64), column["size"]
        _refuse(sizes > region.end, "lies outside the pages", field, pointers, sizes, region)
        return pointers, sizes.astype(np.int64)
    if column.dtype == RECORD_DTYPES[TypeId.NDARRAY]:
        return column.astype(np.uint64), np.zeros_like(unsaid) if _is_array_of_nothing(field) else unsaid
    raise FormatError(
        f"{region.path}: field {field.name!r} has a custom record, {column.dtype}:"
        " say which of its members is the pointer"
    )


def _image_lengths(field: FieldDescriptor, column: npt.NDArray[Any], region: DataRegion) -> _Ints:
    """H * W * 3 for a raw image, -1 for a JPEG."""
    height, width, mode = column["height"].astype(np.int64), column["width"].astype(np.int64), column["mode"]
    bad = (mode > max(ImageMode)) | (height == 0) | (width == 0)
    if bad.any():
        k = np.argmax(bad)
        raise FormatError(
            f"{region.path}: sample {k}, field {field.name!r}: image of height {height[k]}, width {width[k]},"
            f" mode {mode[k]}; expected 1 x 1 or more, mode 0 (JPEG) or 1 (raw): the metadata is damaged"
        )
    return np.where(mode == ImageMode.RAW, height * width * 3, -1)


def _check_shape(field: FieldDescriptor, pointers: _Pointers, lengths: _Ints, region: DataRegion) -> None:
    """Raise for an array field with a payload that cannot be an array of the field's shape, in any dtype.

    Only the field knows the dtype. But a reader allocates by the shape, which may hold any numbers.
    """
    if field.type_id in (TypeId.NDARRAY, TypeId.TENSOR) and not _is_array_of_nothing(field):
        shape = _shape(field)
        count = math.prod(shape)
        bad = lengths % count != 0 if count <= region.end else lengths >= 0
        _refuse(bad, f"is not an array of shape {shape}", field, pointers, lengths, region)


def _shape(field: FieldDescriptor) -> tuple[int, ...]:
    """The shape of an array field: its first 32 arguments, without trailing zeros."""
    return tuple(np.trim_zeros(np.frombuffer(field.arguments, "<u8", 32), "b").tolist())


def _is_array_of_nothing(field: FieldDescriptor) -> bool:
    """Whether this is an array field with a dimension of 0."""
    return field.type_id in (TypeId.NDARRAY, TypeId.TENSOR) and 0 in _shape(field)


def _refuse(
    bad: npt.NDArray[np.bool_],
    why: str,
    field: FieldDescriptor,
    pointers: npt.NDArray[Any],
    lengths: npt.NDArray[Any],
    region: DataRegion,
) -> None:
    if bad.any():
        k = int(np.argmax(bad))
        raise FormatError(
            f"{region.path}: sample {k}, field {field.name!r}: its payload at offset {pointers[k]}"
            f" ({max(lengths[k], 0)} bytes) {why}; pages are bytes {region.start} to {region.end}."
            f" Samples affected: {np.count_nonzero(bad)}. The file is damaged: write or fetch it again"
        )

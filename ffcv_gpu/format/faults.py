"""Describes what is wrong, or merely unusual, in an open file, apart from its payloads' bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format.beton import Beton
from ffcv_gpu.format.layout import ALLOC_TABLE_TYPE, FieldDescriptor
from ffcv_gpu.format.records import TypeId
from ffcv_gpu.format.section import crc32c

__all__ = ["structure_notes", "sum_problems", "verify_structure"]

Pointers = Mapping[str, Sequence[str | None]]


def verify_structure(beton: Beton, pointers: Pointers | None = None) -> list[str]:
    """Return what is wrong with an open file apart from its payloads' bytes; empty for a good one.

    Compares the checksums, if the file has any, and looks for what FFCV would trip over: payloads that
    cross the end of a page or overlap, samples spread over several pages, entries that belong to no sample
    or record, and records that point outside the pages or to no entry.

    Parameters
    ----------
    beton
        the file
    pointers
        for custom fields: the members of the record that hold offsets, as `Beton.lengths` takes them.
        Without them, such a field's records are not checked.

    Returns
    -------
    list of str
        one sentence per kind of problem, naming the first place where it occurs
    """
    problems = sum_problems(beton) + _table_problems(beton)
    claimed = np.zeros(len(beton.allocations), bool)
    complete, empty = True, 0
    for field in beton.fields:
        for pointer in _pointers_of(field, pointers or {}):
            try:
                rows = beton.entries(field.name, pointer)
            except FormatError as error:
                problems.append(str(error))
                complete = False
                continue
            claimed[rows[rows >= 0]] = True
            empty += int(np.count_nonzero(rows < 0))
        complete &= field.type_id != TypeId.CUSTOM or field.name in (pointers or {})
    return problems + (_ghosts(beton.allocations, claimed, empty) if complete else [])


def structure_notes(beton: Beton) -> list[str]:
    """Return what is unusual about a file but read correctly here; FFCV may misread some of it."""
    table = beton.allocations
    order = np.argsort(table["ptr"], kind="stable")
    pointers, sizes = table["ptr"][order], table["size"][order]
    same = pointers[1:] == pointers[:-1]
    shared = np.count_nonzero(same & ((sizes[1:] == 0) | (sizes[:-1] == 0)))
    rest = (beton.size_bytes - beton.table_offset) % ALLOC_TABLE_TYPE.itemsize
    found = {
        f"{shared} empty payloads have the offset of another one, and FFCV may read the wrong one": shared,
        "the allocation table is not in file order, as after FFCV wrote with several workers": np.any(
            order[1:] < order[:-1]
        ),
        f"{rest} bytes follow the allocation table, which FFCV ignores": rest,
    }
    return [sentence for sentence, so in found.items() if so]


def sum_problems(beton: Beton) -> list[str]:
    """Return one sentence per part of the file that differs from its checksum; empty without a section."""
    section, layout = beton.section, beton.layout
    if section is None:
        return []
    parts = {
        "header": (0, layout.descriptors_offset, section.header_crc),
        "field descriptors": (layout.descriptors_offset, layout.metadata_offset, section.descriptors_crc),
        "metadata": (layout.metadata_offset, layout.metadata_end, section.metadata_crc),
        "allocation table": (
            beton.table_offset,
            beton.table_offset + beton.allocations.nbytes,
            section.table_crc,
        ),
    }
    return [
        f"{name}, bytes {start} to {end}: CRC32C is {found:08x}, expected {expected:08x}"
        for name, (start, end, expected) in parts.items()
        if (found := crc32c(beton.data[start:end])) != expected
    ]


def _pointers_of(field: FieldDescriptor, pointers: Pointers) -> Iterator[str | None]:
    if field.type_id == TypeId.CUSTOM or field.name in pointers:
        yield from pointers.get(field.name, ())
    elif field.type_id not in (TypeId.INT, TypeId.FLOAT):
        yield None


def _table_problems(beton: Beton) -> list[str]:
    table = beton.allocations
    stored = table[table["size"] > 0]
    shift = np.uint64(beton.page_size.bit_length() - 1)
    last = stored["ptr"] + stored["size"] - np.uint64(1)
    known = stored["sample_id"] < beton.num_samples
    pages = np.where(known, stored["ptr"] >> shift, 0)
    ids = np.where(known, stored["sample_id"], 0).astype(np.int64)
    # One element more than there are samples: a file may have entries but no samples.
    own_pages = np.append(beton.sample_pages(), -1)[ids]
    by_place = np.argsort(stored["ptr"], kind="stable")
    overlaps = np.zeros(len(stored), bool)
    overlaps[by_place[1:]] = stored["ptr"][by_place[1:]] <= last[by_place[:-1]]
    found = {
        "crosses the end of its page": stored["ptr"] >> shift != last >> shift,
        "belongs to a sample that does not exist": ~known,
        "lies in a different page from its sample's other payloads": known
        & (own_pages != pages.astype(np.int64)),
        "overlaps another payload": overlaps,
    }
    return [
        f"allocation table: {np.count_nonzero(bad)} entries, the first of them {stored[np.argmax(bad)]}"
        f" (sample, offset, size), each of which {what}"
        for what, bad in found.items()
        if bad.any()
    ]


def _ghosts(table: npt.NDArray[Any], claimed: npt.NDArray[np.bool_], empty: int) -> list[str]:
    """Describe entries that no record points to; empty entries can only be counted, not matched."""
    ghosts = np.flatnonzero(~claimed & (table["size"] > 0))
    if not len(ghosts):
        bare = np.flatnonzero(table["size"] == 0)
        ghosts = bare[empty:] if len(bare) > empty else bare[:0]
    if not len(ghosts):
        return []
    return [
        f"allocation table: {len(ghosts)} entries, the first of them {table[ghosts[0]]} (sample, offset,"
        " size), belong to no record: bytes were added to the file, and FFCV's quasi-random order is wrong"
    ]

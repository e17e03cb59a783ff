"""Opens a ``.beton`` file and checks what can be checked without reading a payload."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format.beton import Beton
from ffcv_gpu.format.layout import HeaderType
from ffcv_gpu.format.payloads import check_table
from ffcv_gpu.format.records import TypeId
from ffcv_gpu.format.section import crc32c

__all__ = ["open_beton", "verify_structure"]


def open_beton(
    path: str | os.PathLike[str],
    record_dtypes: Mapping[str, np.dtype[Any]] | None = None,
    *,
    check_sums: bool = True,
) -> Beton:
    """Open a ``.beton`` file for reading and check that its structure can be trusted.

    Parameters
    ----------
    path
        a local file
    record_dtypes
        the record of each custom field (type id 255) by name; wins over a stored type id
    check_sums
        compare header, descriptors, metadata and table with the file's checksums, if it carries any.
        Reads metadata and table once, under 10 ms for 1.28 million samples.

    Returns
    -------
    Beton
        valid even when the file's name is later given to another file, or deleted

    Raises
    ------
    FormatError
        if this is no version 2 file, its writing was interrupted, or it is truncated or damaged
    OSError
        if it cannot be opened
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < HeaderType.itemsize:
            raise FormatError(f"{path}: {size} bytes is too short for a .beton file, its header alone has 24")
        # The map keeps the inode: a file that replaces this one under the same name is not seen.
        data = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
    beton = Beton(path, data, record_dtypes or {})
    check_table(beton.allocations, beton.region)
    if check_sums:
        for problem in _sum_problems(beton):
            raise FormatError(f"{path}: {problem}; the file is damaged, write or fetch it again")
    return beton


def verify_structure(beton: Beton) -> list[str]:
    """What is wrong with an open file apart from its payloads' bytes; empty for a good one.

    Compares the checksums, if the file carries any, and looks for what FFCV would stumble over: payloads
    that cross a page's end or overlap, samples spread over pages, entries that belong to no sample, and
    records that point outside the pages or to no entry.

    Returns
    -------
    list of str
        one sentence for each kind of problem, naming the first place where it occurs
    """
    problems = _sum_problems(beton) + _table_problems(beton)
    for field in beton.fields:
        try:
            if field.type_id != TypeId.CUSTOM:
                beton.lengths(field.name)
                beton.checksums(field.name)
        except FormatError as error:
            problems.append(str(error))
    return problems


def _sum_problems(beton: Beton) -> list[str]:
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
        f"{name}, bytes {start} to {end}: CRC32C is {found:08x}, {expected:08x} was written"
        for name, (start, end, expected) in parts.items()
        if (found := crc32c(beton.data[start:end])) != expected
    ]


def _table_problems(beton: Beton) -> list[str]:
    table = beton.allocations
    stored = table[table["size"] > 0]
    shift = np.uint64(beton.page_size.bit_length() - 1)
    last = stored["ptr"] + stored["size"] - np.uint64(1)
    known = stored["sample_id"] < beton.num_samples
    pages = np.where(known, stored["ptr"] >> shift, 0)
    ids = np.where(known, stored["sample_id"], 0).astype(np.int64)
    by_place = np.argsort(stored["ptr"], kind="stable")
    overlaps = np.zeros(len(stored), bool)
    overlaps[by_place[1:]] = stored["ptr"][by_place[1:]] <= last[by_place[:-1]]
    found = {
        "crosses the end of its page": stored["ptr"] >> shift != last >> shift,
        "belongs to a sample that does not exist": ~known,
        "lies in another page than its sample's other payloads": known
        & (beton.sample_pages()[ids] != pages.astype(np.int64)),
        "overlaps another payload": overlaps,
    }
    return [
        f"allocation table: {np.count_nonzero(bad)} entries, the first of them {stored[np.argmax(bad)]}"
        f" (sample, offset, size), of which each {what}"
        for what, bad in found.items()
        if bad.any()
    ]

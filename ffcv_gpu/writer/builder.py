"""Puts encoded parts into the file, in order, and at the end what describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import SampleError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import (
    ALLOC_TABLE_TYPE,
    JPEG_FACTS,
    FileLayout,
    TypeId,
    align_up,
    build_section,
    pack_descriptors,
    pack_header,
    section_size,
)
from ffcv_gpu.writer.encoder import ENTRY, VIRTUAL, Job, Part
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.pages import Pages
from ffcv_gpu.writer.report import Tally

__all__ = ["BetonBuilder"]

_WORD = np.dtype("<u8")


class BetonBuilder:
    """Builds one file; parts must come in order.

    Parameters
    ----------
    job : Job
    layout : FileLayout
    output : OutputFile
    """

    def __init__(self, job: Job, layout: FileLayout, output: OutputFile) -> None:
        self._job, self._layout, self._output = job, layout, output
        self._pages = Pages(layout.data_offset, layout.page_size)
        self._metadata = np.zeros(layout.num_samples, layout.dtype)
        self._table: list[npt.NDArray[Any]] = []
        self._crcs: list[npt.NDArray[np.uint32]] = []
        self._facts: dict[int, npt.NDArray[Any]] = {}
        self._pointers = [_pointer_places(field) for field in job.fields.values()]
        self.tally = Tally()

    def add(self, part: Part, memory: npt.NDArray[np.uint8]) -> None:
        """Write a part's payloads, uint8 `memory`, which may be used again afterwards; keep its records."""
        bounds = np.frombuffer(part.bounds, np.int64)
        entries = np.frombuffer(part.entries, ENTRY)
        offsets, runs = self._pages.place(bounds)
        for run in runs:
            self._output.write(memory[run.start : run.stop], run.offset)
        moves = offsets - bounds[:-1]
        self._add_records(part, moves, entries)
        table = np.empty(len(entries), ALLOC_TABLE_TYPE)
        table["sample_id"] = entries["sample"].astype(np.uint64) + np.uint64(part.start)
        table["ptr"] = entries["offset"] + moves[entries["sample"]].astype(np.uint64)
        table["size"] = entries["size"]
        self._table.append(table)
        self._crcs.append(entries["crc"])
        for number, rows in part.facts.items():
            facts = self._facts_of(number)
            facts[part.start : part.start + part.count] = np.frombuffer(rows, JPEG_FACTS)
        self.tally.add(part.tally)

    def finish(self, info: Mapping[str, Any]) -> int:
        """Write all but the payloads and return the file's size; `info` goes into the section."""
        layout, output = self._layout, self._output
        table = np.concatenate([np.empty(0, ALLOC_TABLE_TYPE), *self._table])
        begin = align_up(self._pages.end or layout.metadata_end, 8)
        header, section = self._describe(begin, table, info)
        end = begin + len(section)
        output.write(pack_descriptors(layout.descriptors), layout.descriptors_offset)
        output.write(self._metadata, layout.metadata_offset)
        output.write(section, begin)
        output.write(table, end)
        # Last: until here the file begins with zeros, which is version 0 to every reader.
        output.write(header, 0)
        return end + table.nbytes

    def _describe(self, begin: int, table: npt.NDArray[Any], info: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Return the header, and the section that begins at byte `begin`."""
        layout, names = self._layout, list(self._job.fields)
        facts = {names[number]: rows for number, rows in sorted(self._facts.items())}
        size = section_size(
            num_entries=len(table), num_samples=layout.num_samples, num_facts=len(facts), info=info
        )
        header = pack_header(
            num_fields=len(names),
            page_size=layout.page_size,
            num_samples=layout.num_samples,
            alloc_table_ptr=begin + size,
        )
        section = build_section(
            header=header,
            descriptors=pack_descriptors(layout.descriptors),
            metadata=self._metadata,
            allocations=table,
            payload_crcs=np.concatenate([np.empty(0, np.uint32), *self._crcs]),
            facts=facts,
            info=info,
        )
        return header, section

    def _facts_of(self, number: int) -> npt.NDArray[Any]:
        if number not in self._facts:
            nothing = np.array((-1, 0, 0, 0, 0), JPEG_FACTS)
            self._facts[number] = np.full(self._layout.num_samples, nothing)
        return self._facts[number]

    def _add_records(self, part: Part, moves: npt.NDArray[np.int64], entries: npt.NDArray[Any]) -> None:
        """Take over the records' bytes, gaps between members included, and put real places into them."""
        size = self._layout.dtype.itemsize
        rows = self._metadata[part.start : part.start + part.count].view(np.uint8).reshape(part.count, size)
        rows[...] = np.frombuffer(part.records, np.uint8).reshape(part.count, size)
        for number, places in enumerate(self._pointers):
            own = entries[entries["field"] == number]
            if not len(own):
                continue
            found = np.zeros(part.count, np.bool_)
            for place in self._members(number, places):
                column: npt.NDArray[Any] = np.ndarray((part.count,), _WORD, rows.data, place, (size,))
                marked = (column >= VIRTUAL) & (column < VIRTUAL + self._job.slot_bytes)
                column[marked] += (moves[marked] - VIRTUAL).astype(np.uint64)
                found |= marked
            self._check_found(number, own["sample"][~found[own["sample"]]] + part.start)

    def _members(self, number: int, places: tuple[int, ...]) -> Iterator[int]:
        columns: Mapping[str, Any] = self._layout.dtype.fields or {}
        return (columns[f"f{number}"][1] + place for place in places)

    def _check_found(self, number: int, lost: npt.NDArray[Any]) -> None:
        if len(lost):
            name, field = list(self._job.fields.items())[number]
            raise SampleError(
                f"sample {lost[0]}, field {name!r}: {type(field).__name__}.encode asked for memory but stored"
                " no pointer to it; its record needs a uint64 member with the pointer that malloc gave"
            )


def _pointer_places(field: Field) -> tuple[int, ...]:
    """Return where in a field's record (bytes) pointers may stand."""
    dtype = field.record_dtype
    if field.pointers:
        members: Mapping[str, Any] = dtype.fields or {}
        return tuple(int(members[name][1]) if name else 0 for name in field.pointers)
    return tuple(_words(dtype, 0)) if field.type_id == TypeId.CUSTOM else ()


def _words(dtype: np.dtype[Any], offset: int) -> Iterator[int]:
    """Yield where the 8-byte integers of a record are."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        for k in range(int(np.prod(shape))):
            yield from _words(base, offset + k * base.itemsize)
    elif dtype.fields is not None:
        for member in dtype.names or ():
            yield from _words(dtype.fields[member][0], offset + dtype.fields[member][1])
    elif dtype in (np.dtype("<u8"), np.dtype("<i8")):
        yield offset

"""Writes encoded parts and whole files into the new file in order, and at the end what describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import SampleError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import (
    ALLOC_TABLE_TYPE,
    JPEG_FACTS,
    FileLayout,
    Skipped,
    align_up,
    build_section,
    crc32c,
    no_facts,
    pack_descriptors,
    pack_header,
    pack_source_ids,
    section_size,
)
from ffcv_gpu.writer.copying import copy_payloads
from ffcv_gpu.writer.moving import moved_pages, moved_samples
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.pages import Pages, Run
from ffcv_gpu.writer.parts import ENTRY, PART_BYTES, VIRTUAL, Part
from ffcv_gpu.writer.report import Tally
from ffcv_gpu.writer.whole import Contents, pointer_places

__all__ = ["BetonBuilder"]

_WORD = np.dtype("<u8")


class BetonBuilder:
    """Builds one file; parts must be added in order.

    Parameters
    ----------
    fields : mapping of str to Field
        Empty if only whole files are added.
    layout : FileLayout
        With space for all samples that may be added; `finish` drops unused records.
    output : OutputFile
    """

    def __init__(self, fields: Mapping[str, Field], layout: FileLayout, output: OutputFile) -> None:
        self._fields, self._layout, self._output = dict(fields), layout, output
        self._pages = Pages(layout.data_offset, layout.page_size)
        self._slot_bytes = PART_BYTES + layout.page_size
        self._metadata = np.zeros(layout.num_samples, layout.dtype)
        self._table: list[npt.NDArray[Any]] = []
        self._crcs: list[npt.NDArray[np.uint32]] = []
        self._facts: dict[int, npt.NDArray[Any]] = {}
        self._pointers = [pointer_places(field) for field in self._fields.values()]
        #: samples added so far
        self.rows = 0
        self.tally = Tally()
        self.skipped: list[Skipped] = []

    @property
    def end(self) -> int:
        """File offset of the first byte behind the payloads added so far."""
        return self._pages.cursor

    def add(self, part: Part, memory: npt.NDArray[np.uint8]) -> None:
        """Write a part's payloads from `memory`, uint8, reusable on return; keep its records."""
        offsets, runs = self._pages.place(np.frombuffer(part.bounds, np.int64))
        self._write(runs, memory)
        self._keep(part, offsets)

    def _write(self, runs: list[Run], memory: npt.NDArray[np.uint8]) -> None:
        for run in runs:
            self._output.write(memory[run.start : run.stop], run.offset)

    def counts(self) -> dict[str, Any]:
        """Return what the section records about how images were stored, and about skipped samples."""
        counts: dict[str, Any] = {"images": self.tally.as_json()}
        if self.skipped:
            counts["skipped"] = [list(skip) for skip in self.skipped]
        return counts

    def put_in_order(self, first: int) -> None:
        """After the last part: number the positions of skipped samples from `first`, which becomes 0."""
        self.skipped = [skip._replace(position=skip.position - first) for skip in self.skipped]

    def add_again(self, part: Part, memory: npt.NDArray[np.uint8]) -> bool:
        """Keep a part's records if an earlier process has written its payloads to the file.

        Returns False and keeps nothing unless every payload matches its checksum, and what pages leave free
        before them is zero. `memory`, uint8, is a buffer to read them into.
        """
        before = self._pages.cursor
        offsets, runs = self._pages.place(np.frombuffer(part.bounds, np.int64))
        if not (self._is_blank(before, runs, memory) and self._is_written(part, runs, memory)):
            self._pages.cursor = before
            return False
        if self._output.was_complete:
            # If flushing it failed, Linux holds these bytes in memory, counts them as flushed, and would not
            # write them again: only new ones are.
            self._write(runs, memory)
        self._keep(part, offsets)
        return True

    def _is_blank(self, at: int, runs: list[Run], memory: npt.NDArray[np.uint8]) -> bool:
        """Whether the file has zeros from byte `at` to the last of `runs`, except in `runs`."""
        for run in runs:
            gap = memory[: run.offset - at]  # less than a page
            self._output.read_into(gap, at)
            if gap.any():
                return False
            at = run.offset + run.stop - run.start
        return True

    def _is_written(self, part: Part, runs: list[Run], memory: npt.NDArray[np.uint8]) -> bool:
        for run in runs:
            self._output.read_into(memory[run.start : run.stop], run.offset)
        entries = np.frombuffer(part.entries, ENTRY)
        places = zip(
            entries["offset"].tolist(), entries["size"].tolist(), entries["crc"].tolist(), strict=True
        )
        return all(crc32c(memory[at : at + size]) == crc for at, size, crc in places)

    def _keep(self, part: Part, offsets: npt.NDArray[np.int64]) -> None:
        entries = np.frombuffer(part.entries, ENTRY)
        moves = offsets - np.frombuffer(part.bounds, np.int64)[:-1]
        self._add_records(part, moves, entries)
        table = np.empty(len(entries), ALLOC_TABLE_TYPE)
        table["sample_id"] = entries["sample"].astype(np.uint64) + np.uint64(self.rows)
        table["ptr"] = entries["offset"] + moves[entries["sample"]].astype(np.uint64)
        table["size"] = entries["size"]
        self._table.append(table)
        self._crcs.append(entries["crc"])
        for number, rows in part.facts.items():
            self._facts_of(number)[self.rows : self.rows + part.count] = np.frombuffer(rows, JPEG_FACTS)
        self.rows += part.count
        self.tally.add(part.tally)
        self.skipped += part.skipped

    def add_file(self, file: Contents, *, by_sample: bool = False) -> None:
        """Copy a file's payloads, and keep its records with adjusted pointers.

        Copies whole pages. `by_sample` places each sample as if it were written now; the table must then be
        in sample order. ReadError if a payload does not match its checksum.
        """
        moves = (moved_samples if by_sample else moved_pages)(file, self._pages)
        copy_payloads(file, moves, self._output)
        rows = self._bytes_of_rows(len(file.metadata))
        rows[...] = np.ascontiguousarray(file.metadata).view(np.uint8).reshape(rows.shape)
        for place, marked in zip(file.places, file.marked, strict=True):
            rows[:, place : place + _WORD.itemsize].view(_WORD)[marked, 0] += moves.by_row[marked]
        table = file.table.astype(ALLOC_TABLE_TYPE)
        table["ptr"] += moves.by_row[table["sample_id"]]
        table["sample_id"] += np.uint64(self.rows)
        self._table.append(table)
        self._crcs.append(file.crcs)
        for number, facts in file.facts.items():
            self._facts_of(number)[self.rows : self.rows + len(rows)] = facts
        self.rows += len(rows)

    def finish(self, info: Mapping[str, Any], source_ids: Sequence[str] | None = None) -> int:
        """Write everything but the payloads, and return the file's size; `info` goes into the section."""
        # Skipped samples leave the metadata shorter than planned; the pages do not move.
        self._layout = replace(self._layout, num_samples=self.rows)
        self._metadata = self._metadata[: self.rows]
        layout, output = self._layout, self._output
        table = np.concatenate([np.empty(0, ALLOC_TABLE_TYPE), *self._table])
        begin = align_up(self._pages.end or layout.metadata_end, 8)
        header, section = self._describe(begin, table, info, source_ids)
        end = begin + len(section)
        output.write(pack_descriptors(layout.descriptors), layout.descriptors_offset)
        output.write(self._metadata, layout.metadata_offset)
        output.write(section, begin)
        output.write(table, end)
        # An earlier run, or a file without pages, may have left bytes here: nothing may follow the table.
        output.truncate(end + table.nbytes)
        # Last: until now the file begins with zeros, which every reader rejects as version 0.
        output.write(header, 0)
        return end + table.nbytes

    def _describe(
        self, begin: int, table: npt.NDArray[Any], info: Mapping[str, Any], source_ids: Sequence[str] | None
    ) -> tuple[bytes, bytes]:
        """Return the header, and the section that begins at byte `begin`."""
        layout, names = self._layout, [item.name for item in self._layout.descriptors]
        facts = {names[number]: rows[: self.rows] for number, rows in sorted(self._facts.items())}
        sources = None if source_ids is None else pack_source_ids(source_ids)
        size = section_size(
            num_entries=len(table),
            num_samples=layout.num_samples,
            num_facts=len(facts),
            info=info,
            sources=sources,
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
            sources=sources,
        )
        return header, section

    def _facts_of(self, number: int) -> npt.NDArray[Any]:
        if number not in self._facts:
            self._facts[number] = no_facts(len(self._metadata))
        return self._facts[number]

    def _bytes_of_rows(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the next `count` records as bytes, gaps between members included."""
        rows = self._metadata[self.rows : self.rows + count].view(np.uint8)
        return rows.reshape(count, self._layout.dtype.itemsize)

    def _add_records(self, part: Part, moves: npt.NDArray[np.int64], entries: npt.NDArray[Any]) -> None:
        """Copy the part's records, and replace `VIRTUAL` pointers with file offsets."""
        rows, size = self._bytes_of_rows(part.count), self._layout.dtype.itemsize
        rows[...] = np.frombuffer(part.records, np.uint8).reshape(rows.shape)
        for number, places in enumerate(self._pointers):
            own = entries[entries["field"] == number]
            if not len(own):
                continue
            found = np.zeros(part.count, np.bool_)
            for place in self._members(number, places):
                column: npt.NDArray[Any] = np.ndarray((part.count,), _WORD, rows.data, place, (size,))
                marked = (column >= VIRTUAL) & (column < VIRTUAL + self._slot_bytes)
                column[marked] += (moves[marked] - VIRTUAL).astype(np.uint64)
                found |= marked
                self._note_pointers(place, marked)
            self._check_found(number, part, own["sample"][~found[own["sample"]]])

    def _note_pointers(self, place: int, marked: npt.NDArray[np.bool_]) -> None:
        """Called with which of the next records have a pointer at byte `place`; for subclasses."""

    def _members(self, number: int, places: tuple[int, ...]) -> Iterator[int]:
        columns: Mapping[str, Any] = self._layout.dtype.fields or {}
        return (columns[f"f{number}"][1] + place for place in places)

    def _check_found(self, number: int, part: Part, lost: npt.NDArray[Any]) -> None:
        if len(lost):
            name, field = list(self._fields.items())[number]
            raise SampleError(
                f"sample {part.positions()[lost[0]]}, field {name!r}: {type(field).__name__}.encode called"
                " malloc but stored no pointer; its record needs a uint64 member with the pointer that malloc"
                " returned"
            )

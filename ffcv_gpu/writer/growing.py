"""Builds a file of an unknown number of samples: the metadata table grows, and gets its space at the end.

The table precedes the pages, and its length is known only after the last sample. Pages therefore start where
the metadata of a single sample would end; if the records need more, the first pages are moved behind the last
one: one page per page of metadata (350,000 samples of image and label).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import FileLayout, Skipped
from ffcv_gpu.writer.builder import BetonBuilder
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.parts import Part
from ffcv_gpu.writer.streams import StreamPart

__all__ = ["GrowingBuilder"]

_FIRST_ROWS = 4096


class GrowingBuilder(BetonBuilder):
    """Builds one file from parts of streams that arrive in any order; the samples end up in stream order.

    Takes the arguments of `BetonBuilder`, with a layout for one sample.
    """

    def __init__(self, fields: Mapping[str, Field], layout: FileLayout, output: OutputFile) -> None:
        super().__init__(fields, layout, output)
        self._arrived: list[tuple[int, int, int]] = []
        self._left_out: list[tuple[int, Skipped]] = []
        self._lengths: dict[int, int] = {}
        #: which records have a pointer, by its byte offset in the record: pages may move at the end
        self._marked: dict[int, npt.NDArray[np.bool_]] = {}

    def add(self, part: Part, memory: npt.NDArray[np.uint8]) -> None:
        """Write a part's payloads and keep its records; `part` is a `StreamPart`."""
        assert isinstance(part, StreamPart)
        self._lengths[part.stream] = part.stop
        self._left_out += [(part.stream, skip) for skip in part.skipped]
        if part.count:
            self._reserve(self.rows + part.count)
            self._arrived.append((part.stream, part.start, part.count))
            super().add(part, memory)

    def _reserve(self, rows: int) -> None:
        old = len(self._metadata)
        if rows <= old:
            return
        kept, facts, marked = self._metadata, self._facts, self._marked
        self._metadata = np.zeros(max(rows, 2 * old, _FIRST_ROWS), self._layout.dtype)
        self._facts, self._marked = {}, {}
        self._metadata.view(np.uint8)[: kept.nbytes] = kept.view(np.uint8)
        for number, known in facts.items():
            self._facts_of(number)[:old] = known
        for place, known in marked.items():
            self._marked_of(place)[:old] = known

    def _marked_of(self, place: int) -> npt.NDArray[np.bool_]:
        if place not in self._marked:
            self._marked[place] = np.zeros(len(self._metadata), np.bool_)
        return self._marked[place]

    def _note_pointers(self, place: int, marked: npt.NDArray[np.bool_]) -> None:
        self._marked_of(place)[self.rows : self.rows + len(marked)] = marked

    def put_in_order(self, first: int) -> None:
        """After the last part: sort samples and skipped ones into stream order; `first` is not used."""
        before = dict.fromkeys(self._lengths, 0)
        for stream, following in pairwise(sorted(self._lengths)):
            before[following] = before[stream] + self._lengths[stream]
        skipped = [skip._replace(position=before[stream] + skip.position) for stream, skip in self._left_out]
        self.skipped = sorted(skipped, key=lambda skip: skip.position)
        if not self.rows:
            return
        order = self._order()
        # As bytes: copying records member by member would lose the padding between them.
        size = self._layout.dtype.itemsize
        raw = self._metadata[: self.rows].view(np.uint8).reshape(self.rows, size)[order]
        self._metadata = raw.reshape(-1).view(self._layout.dtype)
        self._facts = {number: facts[: self.rows][order] for number, facts in self._facts.items()}
        self._marked = {place: marked[: self.rows][order] for place, marked in self._marked.items()}
        ids = np.empty(self.rows, np.uint64)
        ids[order] = np.arange(self.rows, dtype=np.uint64)
        for table in self._table:
            table["sample_id"] = ids[table["sample_id"]]

    def _order(self) -> npt.NDArray[np.int64]:
        """Return the row numbers, counted by arrival, in stream order."""
        first, pieces = 0, []
        for stream, start, count in self._arrived:
            pieces.append((stream, start, np.arange(first, first + count)))
            first += count
        pieces.sort(key=lambda piece: piece[:2])
        return np.concatenate([rows for _, _, rows in pieces])

    def finish(self, info: Mapping[str, Any], source_ids: Sequence[str] | None = None) -> int:
        """Make space for the records, and write everything but the payloads; call `put_in_order` first."""
        self._layout = replace(self._layout, num_samples=self.rows)
        shift = self._make_room()
        self._move_pointers(shift)
        if self._table:
            table, crcs = np.concatenate(self._table), np.concatenate(self._crcs)
            table["ptr"] += self._shifts(table["ptr"], shift)
            by_place = np.argsort(table["ptr"], kind="stable")
            self._table, self._crcs = [table[by_place]], [crcs[by_place]]
        return super().finish(info, source_ids)

    def _make_room(self) -> int:
        """Move pages out of the metadata's way, behind the last page; return by how many bytes."""
        begin, end, needed = self._pages.begin, self._pages.end, self._layout.data_offset
        if end is None or needed <= begin:
            return 0
        size, target = min(needed, end) - begin, max(needed, end)
        self._output.copy(begin, target, size)
        self._output.write(bytes(needed - self._layout.metadata_end), self._layout.metadata_end)
        self._pages.cursor = target + size
        return target - begin

    def _shifts(self, places: npt.NDArray[np.uint64], shift: int) -> npt.NDArray[np.uint64]:
        """Return by how many bytes the payloads at `places` were moved."""
        moved = places < np.uint64(self._layout.data_offset)
        return np.where(moved, np.uint64(shift), np.uint64(0))

    def _move_pointers(self, shift: int) -> None:
        """Adjust the records' pointers to the pages that were moved."""
        size = self._layout.dtype.itemsize
        for place, marked in self._marked.items():
            column: npt.NDArray[Any] = np.ndarray(
                (self.rows,), np.uint64, self._metadata.data, place, (size,)
            )
            column[marked] += self._shifts(column[marked], shift)

"""Reads every payload of a file and compares it with its checksum, or decodes it; what ``verify`` runs.

Processes, not threads: google_crc32c keeps the GIL whatever the size of its input, and two threads that
read and sum were slower than one (3.6 against 6.6 GB/s on 2 cores). `pread`, not the memory map: of a bad
sector it says which sample lies there, where a map would end the process.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt
import simplejpeg

from ffcv_gpu.cli.opening import Opened
from ffcv_gpu.errors import ReadError
from ffcv_gpu.format import ImageMode
from ffcv_gpu.readers import PositionedReader

__all__ = ["BadPayload", "Payloads", "check_payloads", "collect", "processes_for"]

TASK_BYTES: Final = 64 << 20
READ_BYTES: Final = 4 << 20
#: a process takes half a second to start: what one core sums, and decodes, in several of those
WORTH_SUMMING: Final = 8 << 30
WORTH_DECODING: Final = 128 << 20


@dataclass(frozen=True)
class Payloads:
    """Payloads to check, in the order in which they lie in the file; arrays of (n,), all the same n.

    ``fields`` (number), ``samples`` (row of the file), ``offsets`` and ``lengths`` in bytes; ``sums``: the
    CRC32C that was written, or None if the file has none; ``heights`` and ``widths`` of a JPEG that is to
    be decoded, 0 for what is not.
    """

    fields: npt.NDArray[np.int64]
    samples: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    sums: npt.NDArray[np.uint32] | None
    heights: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, rows: Any) -> Payloads:
        """Return the payloads of some rows: an index array or a slice."""
        columns = (self.fields, self.samples, self.offsets, self.lengths)
        sums = None if self.sums is None else self.sums[rows]
        return Payloads(*(c[rows] for c in columns), sums, self.heights[rows], self.widths[rows])


@dataclass(frozen=True, order=True)
class BadPayload:
    """One payload that is not what was written."""

    sample: int
    field: int
    offset: int
    length: int
    reason: str


def collect(opened: Opened, name: str, *, decode: bool) -> Payloads | None:
    """Return all payloads of a field that hold a byte; None for a field without payloads.

    Raises
    ------
    FormatError
        If one lies where no payload can lie.
    """
    pieces = [_column(opened, name, pointer, decode) for pointer in opened.pointers(name)]
    return join(pieces) if pieces else None


def _column(opened: Opened, name: str, pointer: str | None, decode: bool) -> Payloads:
    beton, column = opened.beton, opened.beton.column(name)
    lengths = beton.lengths(name, pointer)
    rows = np.flatnonzero(lengths)
    sides = np.zeros((2, len(rows)), np.int64)
    if decode and opened.is_image(name):
        jpeg = column["mode"][rows] == ImageMode.JPEG
        sides[:, jpeg] = column["height"][rows][jpeg], column["width"][rows][jpeg]
    sums = beton.checksums(name, pointer)
    number = np.full(len(rows), beton.field_names.index(name))
    offsets = beton.offsets(name, pointer)[rows]
    return Payloads(number, rows, offsets, lengths[rows], None if sums is None else sums[rows], *sides)


def join(pieces: list[Payloads]) -> Payloads:
    """Return several fields' payloads as one, sorted by offset."""

    def column(name: str) -> Any:
        return np.concatenate([getattr(piece, name) for piece in pieces])

    names = ("fields", "samples", "offsets", "lengths")
    sums = None if any(piece.sums is None for piece in pieces) else column("sums")
    whole = Payloads(*map(column, names), sums, column("heights"), column("widths"))
    return whole.take(np.argsort(whole.offsets, kind="stable"))


def processes_for(payloads: Payloads) -> int:
    """Return how many processes are worth their start: 1, or one per CPU that this process may use."""
    decoded_bytes = int(payloads.lengths[payloads.heights > 0].sum())
    total_bytes = int(payloads.lengths.sum())
    if decoded_bytes < WORTH_DECODING and total_bytes < WORTH_SUMMING:
        return 1
    return min(len(os.sched_getaffinity(0)), math.ceil(total_bytes / TASK_BYTES))


def check_payloads(path: str, payloads: Payloads, processes: int) -> Iterator[tuple[int, list[BadPayload]]]:
    """Check all payloads; yield (bytes looked at, what is bad there) as the work goes on.

    Parameters
    ----------
    path : str
    payloads : Payloads
        Sorted by offset, as `join` returns them.
    processes : int
        1: in this one. They are spawned, not forked, so it does not matter which threads run here.

    Raises
    ------
    BrokenProcessPool
        If a process dies.
    """
    task_of = np.cumsum(payloads.lengths) // TASK_BYTES
    cuts = np.flatnonzero(np.diff(task_of)) + 1
    edges = [0, *cuts.tolist(), len(payloads)]
    tasks = [payloads.take(slice(lo, hi)) for lo, hi in zip(edges[:-1], edges[1:], strict=True)]
    if processes == 1:
        yield from (_check_task(path, task) for task in tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_check_task, path, task) for task in tasks]):
            yield future.result()


def _check_task(path: str, task: Payloads) -> tuple[int, list[BadPayload]]:
    reader = PositionedReader(path)
    buffer = np.empty(max(READ_BYTES, int(task.lengths.max(initial=0))), np.uint8)
    bad: list[BadPayload] = []
    try:
        for block in _blocks(task):
            bad += _check_block(reader, block, buffer)
    finally:
        reader.close()
    return int(task.lengths.sum()), bad


def _blocks(task: Payloads) -> Iterator[Payloads]:
    """Cut into runs of neighbours that one read of at most READ_BYTES fetches (or one large payload)."""
    starts, ends, lo = task.offsets.tolist(), (task.offsets + task.lengths).tolist(), 0
    for at in range(1, len(task)):
        if ends[at] - starts[lo] > READ_BYTES:
            yield task.take(slice(lo, at))
            lo = at
    if len(task):
        yield task.take(slice(lo, len(task)))


def _check_block(
    reader: PositionedReader, block: Payloads, buffer: npt.NDArray[np.uint8]
) -> Iterator[BadPayload]:
    """Read a block at once and check each payload in it; where that fails, read payload by payload."""
    first, last = int(block.offsets[0]), int((block.offsets + block.lengths).max())
    span = buffer[: last - first]
    try:
        reader.read_into(np.array([first]), np.array([len(span)]), span)
    except ReadError as error:
        if len(block) > 1:
            for row in range(len(block)):
                yield from _check_block(reader, block.take(slice(row, row + 1)), buffer)
        else:
            yield _bad(block, 0, str(error))
        return
    for row, (start, length) in enumerate(
        zip((block.offsets - first).tolist(), block.lengths.tolist(), strict=True)
    ):
        reason = _reason(block, row, span[start : start + length])
        if reason is not None:
            yield _bad(block, row, reason)


def _reason(block: Payloads, row: int, payload: npt.NDArray[np.uint8]) -> str | None:
    """Say what is wrong with a payload, or None."""
    if block.sums is not None and (found := google_crc32c.value(payload)) != block.sums[row]:
        return f"CRC32C is {found:08x}, {block.sums[row]:08x} was written"
    height, width = int(block.heights[row]), int(block.widths[row])
    if not height:
        return None
    try:
        # The header first: simplejpeg leaks when a picture is larger than the memory it is given.
        sides = simplejpeg.decode_jpeg_header(payload)[:2]
        if sides != (height, width):
            return f"the JPEG is {sides[1]} x {sides[0]} pixels, {width} x {height} are noted"
        simplejpeg.decode_jpeg(payload)
    except ValueError as error:
        return f"no good JPEG: {error}"
    return None


def _bad(block: Payloads, row: int, reason: str) -> BadPayload:
    where = (block.samples, block.fields, block.offsets, block.lengths)
    return BadPayload(*(int(column[row]) for column in where), reason)

"""Reads every payload of a file and compares it with its checksum, or decodes it; what ``verify`` runs.

Processes, not threads: google_crc32c keeps the GIL whatever the size of its input, and two threads that
read and sum were slower than one (3.6 against 6.6 GB/s on 2 cores). `pread`, not the memory map: of a bad
sector it says which sample lies there, where a map would end the process.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt
import simplejpeg

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers import PositionedReader

__all__ = ["PAYLOAD", "BadPayload", "check_payloads", "processes_for"]

#: one payload to check. ``field``: number, -1 if unknown; ``summed``: ``crc`` is what was written;
#: ``height`` and ``width`` of a JPEG that is to be decoded, 0 for what is not
PAYLOAD: Final = np.dtype(
    [
        ("sample", "i8"), ("field", "i4"), ("offset", "i8"), ("length", "i8"), ("crc", "u4"), ("summed", "?"),
        ("height", "i4"), ("width", "i4"),
    ]
)  # fmt: skip
TASK_BYTES: Final = 64 << 20
READ_BYTES: Final = 4 << 20
#: a process takes half a second to start: what one core sums, and decodes, in a few of those
WORTH_SUMMING: Final = 8 << 30
WORTH_DECODING: Final = 128 << 20

Records = npt.NDArray[Any]


@dataclass(frozen=True, order=True)
class BadPayload:
    """One payload that is not what was written; ``field`` is a number, -1 if unknown."""

    sample: int
    field: int
    offset: int
    length: int
    reason: str


def processes_for(payloads: Records) -> int:
    """Return how many processes are worth their start: 1, or one per CPU that this process may use."""
    total_bytes = int(payloads["length"].sum())
    decoded_bytes = int(payloads["length"][payloads["height"] > 0].sum())
    if decoded_bytes < WORTH_DECODING and total_bytes < WORTH_SUMMING:
        return 1
    return min(len(os.sched_getaffinity(0)), math.ceil(total_bytes / TASK_BYTES))


def check_payloads(path: str, payloads: Records, processes: int) -> Iterator[tuple[int, list[BadPayload]]]:
    """Check payloads; yield (bytes looked at, what is bad there) as the work goes on.

    Parameters
    ----------
    path : str
    payloads : (n,) `PAYLOAD`
        Sorted by offset.
    processes : int
        1: in this one. They are spawned, not forked, so it does not matter which threads run here.

    Raises
    ------
    ReadError
        If a process dies.
    """
    task_of = np.cumsum(payloads["length"]) // TASK_BYTES
    edges = [0, *(np.flatnonzero(np.diff(task_of)) + 1).tolist(), len(payloads)]
    tasks = [payloads[lo:hi] for lo, hi in itertools.pairwise(edges)]
    if processes == 1:
        yield from (_check_task(path, task) for task in tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_check_task, path, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise ReadError(
                f"{path}: a process that checked it was killed (out of memory?); it is not known to be good"
            ) from None


def _check_task(path: str, task: Records) -> tuple[int, list[BadPayload]]:
    reader = PositionedReader(path)
    buffer = np.empty(max(READ_BYTES, int(task["length"].max(initial=0))), np.uint8)
    try:
        bad = [payload for block in _blocks(task) for payload in _check_block(reader, block, buffer)]
    finally:
        reader.close()
    return int(task["length"].sum()), bad


def _blocks(task: Records) -> Iterator[Records]:
    """Cut into runs of neighbours that one read of at most READ_BYTES fetches (or one large payload)."""
    starts, ends, lo = task["offset"].tolist(), (task["offset"] + task["length"]).tolist(), 0
    for at in range(1, len(task)):
        if ends[at] - starts[lo] > READ_BYTES:
            yield task[lo:at]
            lo = at
    if len(task):
        yield task[lo:]


def _check_block(
    reader: PositionedReader, block: Records, buffer: npt.NDArray[np.uint8]
) -> Iterator[BadPayload]:
    """Read a block at once and check each payload in it; where reading fails, payload by payload."""
    first, last = int(block["offset"][0]), int((block["offset"] + block["length"]).max())
    span = buffer[: last - first]
    try:
        reader.read_into(np.array([first]), np.array([len(span)]), span)
    except ReadError as error:
        if len(block) == 1:
            yield _bad(block[0], str(error))
        else:
            for row in range(len(block)):
                yield from _check_block(reader, block[row : row + 1], buffer)
        return
    yield from _compare(block, span, first)


def _compare(block: Records, span: npt.NDArray[np.uint8], first: int) -> Iterator[BadPayload]:
    """Check the payloads of a block, whose bytes from offset `first` on are in `span`."""
    starts = block["offset"] - first
    places = list(zip(starts.tolist(), (starts + block["length"]).tolist(), strict=True))
    sums = np.array([google_crc32c.value(span[start:end]) for start, end in places], np.uint32)
    wrong = block["summed"] & (sums != block["crc"])
    for row in np.flatnonzero(wrong | (block["height"] > 0)).tolist():
        if wrong[row]:
            yield _bad(block[row], f"CRC32C is {sums[row]:08x}, {block['crc'][row]:08x} was written")
            continue
        reason = _undecodable(span[slice(*places[row])], int(block["height"][row]), int(block["width"][row]))
        if reason is not None:
            yield _bad(block[row], reason)


def _undecodable(content: npt.NDArray[np.uint8], height: int, width: int) -> str | None:
    """Say why a JPEG is none of this size, or None if it is."""
    try:
        # The header first, so that no more is allocated than the file's own numbers say.
        sides = simplejpeg.decode_jpeg_header(content)[:2]
        if sides != (height, width):
            return f"the JPEG is {sides[1]} x {sides[0]} pixels, {width} x {height} are noted"
        simplejpeg.decode_jpeg(content)
    except ValueError as error:
        return f"no good JPEG: {error}"
    return None


def _bad(payload: Any, reason: str) -> BadPayload:
    sample, field, offset, length = (int(payload[name]) for name in ("sample", "field", "offset", "length"))
    return BadPayload(sample, field, offset, length, reason)

"""Reads every payload of a file and compares it with its checksum, or decodes it, for ``verify``.

Processes, not threads: google_crc32c holds the GIL whatever the size of its input, so two threads that
read and checksummed were slower than one (3.6 against 6.6 GB/s on 2 cores). `pread`, not the memory map:
on a bad sector it raises, so the sample can be named, where a map would kill the process.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt
import simplejpeg

from ffcv_gpu.cpus import usable_cpus
from ffcv_gpu.errors import ReadError
from ffcv_gpu.limits import too_many_pixels
from ffcv_gpu.readers import PositionedReader

__all__ = ["PAYLOAD", "BadPayload", "check_payloads", "processes_for"]

#: one payload to check. ``field``: number, -1 if unknown; ``summed``: ``crc`` holds the stored checksum;
#: ``height`` and ``width``: of a JPEG to decode, else 0
PAYLOAD: Final = np.dtype(
    [
        ("sample", "i8"), ("field", "i4"), ("offset", "i8"), ("length", "i8"), ("crc", "u4"), ("summed", "?"),
        ("height", "i4"), ("width", "i4"),
    ]
)  # fmt: skip
TASK_BYTES: Final = 64 << 20
READ_BYTES: Final = 4 << 20
#: a process takes half a second to start: these are what one core checksums, and decodes, in a few of those
WORTH_SUMMING: Final = 8 << 30
WORTH_DECODING: Final = 128 << 20

Records = npt.NDArray[Any]


@dataclass(frozen=True, order=True)
class BadPayload:
    """One payload that differs from what was written; ``field`` is a number, -1 if unknown."""

    sample: int
    field: int
    offset: int
    length: int
    reason: str


def processes_for(payloads: Records) -> int:
    """Return how many processes are worth starting: 1, or one per CPU that this process may use."""
    total_bytes = int(payloads["length"].sum())
    decoded_bytes = int(payloads["length"][payloads["height"] > 0].sum())
    if decoded_bytes < WORTH_DECODING and total_bytes < WORTH_SUMMING:
        return 1
    return min(usable_cpus(), math.ceil(total_bytes / TASK_BYTES))


def check_payloads(path: str, payloads: Records, processes: int) -> Iterator[tuple[int, list[BadPayload]]]:
    """Check payloads; yield (bytes checked, bad payloads among them) for each task as it finishes.

    Parameters
    ----------
    path : str
    payloads : (n,) `PAYLOAD`
        Sorted by offset.
    processes : int
        1 uses this process. More are spawned, not forked, so threads that run here do not matter.

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
                f"{path}: a process that checked it was killed (out of memory?); the file is not verified"
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
    """Split into runs of neighbours that fit one read of READ_BYTES; a larger payload is a run of its own."""
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
    """Check each payload of a block, read in one call; if reading fails, payload by payload."""
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
    """Check the payloads of a block; `span` holds its bytes from file offset `first`."""
    starts = block["offset"] - first
    places = list(zip(starts.tolist(), (starts + block["length"]).tolist(), strict=True))
    sums = np.array([google_crc32c.value(span[start:end]) for start, end in places], np.uint32)
    wrong = block["summed"] & (sums != block["crc"])
    for row in np.flatnonzero(wrong | (block["height"] > 0)).tolist():
        if wrong[row]:
            yield _bad(block[row], f"CRC32C is {sums[row]:08x}, expected {block['crc'][row]:08x}")
            continue
        reason = _undecodable(span[slice(*places[row])], int(block["height"][row]), int(block["width"][row]))
        if reason is not None:
            yield _bad(block[row], reason)


def _undecodable(content: npt.NDArray[np.uint8], height: int, width: int) -> str | None:
    """Return why the content does not decode as a JPEG of this size, or None if it does."""
    try:
        # The header first, so that no more is allocated than the record's own sides ask for.
        sides = simplejpeg.decode_jpeg_header(content)[:2]
        if sides != (height, width):
            return f"the JPEG is {sides[1]} x {sides[0]} pixels, the record says {width} x {height}"
        if words := too_many_pixels(height, width):
            return words
        simplejpeg.decode_jpeg(content)
    except ValueError as error:
        return f"not a valid JPEG: {error}"
    return None


def _bad(payload: Any, reason: str) -> BadPayload:
    sample, field, offset, length = (int(payload[name]) for name in ("sample", "field", "offset", "length"))
    return BadPayload(sample, field, offset, length, reason)

"""Decoding on a GPU: all images of a call go into one block of GPU memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.decode.arguments import Job
from ffcv_gpu.decode.copies import Copies, helpers_for
from ffcv_gpu.device import GpuDevice
from ffcv_gpu.device.gpu import Arena
from ffcv_gpu.errors import FfcvGpuError
from ffcv_gpu.jpeg.base import ByteArray, Decoded, DecodeStatus, Encoded, Fault, Ticket
from ffcv_gpu.jpeg.scan import NO_FACTS
from ffcv_gpu.steps import IntArray

__all__ = ["leave_gpus", "on_gpu"]

#: alignment of each image in the shared block, bytes: that of the GPU's own allocator
ALIGNMENT = 256
#: batch sizes for nvJPEG: only two, so that few states are created
SMALL_BATCH, BATCH = 64, 256
#: Maximum images per call to the engines: while they are decoded, helpers copy the files of the next call.
#: A call takes as long as the slowest of seven engines: of 128 photos, each decodes 18 and idles for half a
#: photo, 3 %. Smaller parts lose more; larger ones copy more before any engine starts. Not measured yet.
ENGINE_PART = 128
#: parts in flight: nvJPEG's call takes as long as the engines, so a third part would only use memory
IN_FLIGHT = 2

#: GPUs and backends of earlier calls. Without these references, a GPU that no loader uses would be released,
#: and later calls would recreate it with its pinned memory and decoders.
_used: set[object] = set()


def leave_gpus() -> None:
    """Release the GPUs of earlier calls, with the memory and decoders kept for later calls."""
    if _used:
        _used.clear()
        gc.collect()  # a GPU and its decoders refer to each other


def on_gpu(
    job: Job, boxes: IntArray | None, gpu: GpuDevice, workers: int, paranoid: bool, dct: str
) -> tuple[list[Any], Decoded]:
    """Decode all images, then copy out their rectangles `boxes`, if given; a bad image is None."""
    sizes = -(-3 * job.found.heights * job.found.widths // ALIGNMENT) * ALIGNMENT
    bounds: IntArray = np.concatenate([[0], np.cumsum(sizes)])
    _used.add(gpu)
    with gpu.owner.entered():
        pixels, outcome = _decoded(job, bounds, gpu, workers, paranoid, dct)
    return _images(job, bounds[:-1], pixels, outcome, boxes), outcome


def _decoded(
    job: Job, bounds: IntArray, gpu: GpuDevice, workers: int, paranoid: bool, dct: str
) -> tuple[Any, Decoded]:
    """Return the block of all images on the GPU, uint8, once the pixels are in it.

    `bounds` has the offset of each image in the block, and the end of the last one.
    """
    from ffcv_gpu.jpeg.nvjpeg.sharing import shared_backend

    which = job.readable()
    if not which.size:
        return np.zeros(0, np.uint8), job.outcome(job.unreadable())
    most = SMALL_BATCH if which.size <= SMALL_BATCH else BATCH
    backend = shared_backend(gpu, batch_size=most, paranoid=paranoid, dct=dct)
    _used.add(backend)
    slot = gpu.borrow(lambda: False)
    assert slot is not None, "nobody gave up"
    try:
        total = sum(item.size for item in job.items)
        helpers = helpers_for(total, workers)
        slot.grow(total, 0)
        with gpu.owner.working_on(gpu.stream):
            pixels = gpu.empty((int(bounds[-1]),), "uint8")
        # Work queued on the stream may still read the previous contents of this memory. The decoder waits for
        # the event on the host, because an engine would not wait for the stream.
        used = gpu.new_event()
        gpu.stream.record(used)

        def submit(encoded: Encoded, some: IntArray) -> Ticket:
            # A separate arena per part: a backend finishes a call before it starts another to the same arena.
            first, last = int(bounds[some[0]]), int(bounds[some[-1] + 1])
            memory = pixels[first:last]
            views = gpu.launches.views(memory) if paranoid else None  # 100 microseconds, for sentinels
            return backend.submit(encoded, Arena(memory, views, last - first, used), bounds[some] - first)

        part = ENGINE_PART if backend.decoders.lanes and helpers else BATCH
        faults = _in_parts(job, slot.pinned, which, submit, part, helpers)
    finally:
        gpu.give_back(slot)
    ready = gpu.new_event()
    gpu.stream.record(ready)
    gpu.owner.hand_over([pixels], ready)
    return pixels, job.outcome(job.unreadable() | faults)


def _in_parts(
    job: Job,
    pinned: ByteArray,
    which: IntArray,
    submit: Callable[[Encoded, IntArray], Ticket],
    most: int,
    helpers: int,
) -> dict[int, Fault]:
    """Copy the files, submit those in `which` in parts as soon as they are copied, and return the faults.

    On return, also by an exception, nothing reads or writes `pinned` any more.
    """
    count, parts = len(job.items), -(-len(job.items) // most)
    cuts = [count * k // parts for k in range(1, parts + 1)]
    columns, faults = _columns(job), dict[int, Fault]()
    with Copies(job.items, pinned, cuts, helpers) as copies, ExitStack() as ending:
        tickets: list[tuple[Ticket, IntArray]] = []
        for lo, hi in pairwise([0, *cuts]):
            copies.bring(hi)
            some = which[slice(*np.searchsorted(which, (lo, hi)))]
            if not some.size:
                continue
            if len(tickets) >= IN_FLIGHT:
                tickets[-IN_FLIGHT][0].wait()
            encoded = Encoded(pinned, *(column[some] for column in columns))
            tickets.append((submit(encoded, some), some))
            ending.callback(_settle, tickets[-1][0])
        for ticket, some in tickets:
            decoded = ticket.wait()
            for i in np.flatnonzero(decoded.status).tolist():
                reason = decoded.reasons.get(i, "no reason given")
                faults[int(some[i])] = DecodeStatus(decoded.status[i]), reason
    return faults


def _settle(ticket: Ticket) -> None:
    """Wait for a call and ignore its outcome."""
    with suppress(FfcvGpuError):
        ticket.wait()


def _columns(job: Job) -> tuple[npt.NDArray[Any], ...]:
    """Return the columns of `Encoded`, for files stored one after another without gaps."""
    found, lengths = job.found, np.array([item.size for item in job.items], np.int64)
    facts = found.facts.copy()
    facts[found.precisions != 8] = np.array(NO_FACTS, facts.dtype)
    return np.cumsum(lengths) - lengths, lengths, found.heights, found.widths, facts


def _images(job: Job, starts: IntArray, pixels: Any, outcome: Decoded, boxes: IntArray | None) -> list[Any]:
    """Return each image as a view of `pixels`, or its rectangle as a copy; None for a bad image."""
    made: list[Any] = []
    columns = (outcome.status, starts, job.found.heights, job.found.widths)
    for i, (status, start, height, width) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        image = None
        if status == DecodeStatus.GOOD:
            if hasattr(pixels, "as_strided"):  # torch: takes half the time
                image = pixels.as_strided((height, width, 3), (3 * width, 3, 1), start)
            else:
                image = pixels[start : start + 3 * height * width].reshape(height, width, 3)
            if boxes is not None:
                y, x, rows, columns_ = boxes[i].tolist()
                image = image[y : y + rows, x : x + columns_]
                image = image.clone() if hasattr(image, "clone") else image.copy()
        made.append(image)
    return made

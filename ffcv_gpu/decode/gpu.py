"""On a GPU: all images of a call into one block of its memory."""

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

#: start of each image in the memory that all share, bytes: what the GPU's own allocator aligns to
ALIGNMENT = 256
#: images of one call of nvJPEG: few settings, so that few states are made
SMALL_BATCH, BATCH = 64, 256
#: Images that go to the engines at once, at most: while they are decoded, helpers copy the files of the next.
#: A call ends with the slowest of seven engines: of 128 photos each decodes 18, and idles for half of one,
#: 3 %. Smaller parts lose more; of larger ones, more is copied before any engine starts. Not measured yet.
ENGINE_PART = 128
#: parts in flight: nvJPEG's call takes as long as the engines, so that a third would only take memory
IN_FLIGHT = 2

#: GPUs of earlier calls. Where no loader holds them, they would be made anew for later calls, and with them
#: pinned memory and decoders.
_used: set[GpuDevice] = set()


def leave_gpus() -> None:
    """Let go of the GPUs of earlier calls, and of what was kept there for later ones."""
    if _used:
        _used.clear()
        gc.collect()  # a GPU and its decoders refer to each other


def on_gpu(
    job: Job, boxes: IntArray | None, gpu: GpuDevice, workers: int, paranoid: bool, dct: str
) -> tuple[list[Any], Decoded]:
    """Decode all images, then copy out the rectangles, if there are any; a bad one is None."""
    sizes = -(-3 * job.found.heights * job.found.widths // ALIGNMENT) * ALIGNMENT
    bounds: IntArray = np.concatenate([[0], np.cumsum(sizes)])
    _used.add(gpu)
    with gpu.owner.entered():
        pixels, outcome = _decoded(job, bounds, gpu, workers, paranoid, dct)
    return _images(job, bounds[:-1], pixels, outcome, boxes), outcome


def _decoded(
    job: Job, bounds: IntArray, gpu: GpuDevice, workers: int, paranoid: bool, dct: str
) -> tuple[Any, Decoded]:
    """Return the memory of all images on the GPU, uint8, when the pixels are there.

    `bounds` says where in it the memory of each image begins, and where that of the last one ends.
    """
    from ffcv_gpu.jpeg.nvjpeg.sharing import shared_backend

    which = job.readable()
    if not which.size:
        return np.zeros(0, np.uint8), job.outcome(job.unreadable())
    most = SMALL_BATCH if which.size <= SMALL_BATCH else BATCH
    backend = shared_backend(gpu, batch_size=most, paranoid=paranoid, dct=dct)
    slot = gpu.borrow(lambda: False)
    assert slot is not None, "nobody gave up"
    try:
        total = sum(item.size for item in job.items)
        helpers = helpers_for(total, workers)
        slot.grow(total, 0)
        with gpu.owner.working_on(gpu.stream):
            pixels = gpu.empty((int(bounds[-1]),), "uint8")
        # What was in this memory before may still be read in the order of the stream; the decoder waits for
        # the event on the host, because an engine would not wait for the stream.
        used = gpu.new_event()
        gpu.stream.record(used)

        def submit(encoded: Encoded, some: IntArray) -> Ticket:
            # An arena of its own for each: a backend ends a call before it begins another to the same one.
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
    """Copy the files, and submit those in `which` in parts as soon as they are there; return what is bad.

    Whatever happens, nobody reads or writes `pinned` any more at the end.
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
    """Wait for a call of which nobody wants the outcome."""
    with suppress(FfcvGpuError):
        ticket.wait()


def _columns(job: Job) -> tuple[npt.NDArray[Any], ...]:
    """Return what `Encoded` tells of each image, when they lie one behind the other."""
    found, lengths = job.found, np.array([item.size for item in job.items], np.int64)
    facts = found.facts.copy()
    facts[found.precisions != 8] = np.array(NO_FACTS, facts.dtype)
    return np.cumsum(lengths) - lengths, lengths, found.heights, found.widths, facts


def _images(job: Job, starts: IntArray, pixels: Any, outcome: Decoded, boxes: IntArray | None) -> list[Any]:
    """Return each image as a view of `pixels`, or its rectangle in memory of its own; None for a bad one."""
    made: list[Any] = []
    columns = (outcome.status, starts, job.found.heights, job.found.widths)
    for i, (status, start, height, width) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        image = None
        if status == DecodeStatus.GOOD:
            if hasattr(pixels, "as_strided"):  # torch: in half the time
                image = pixels.as_strided((height, width, 3), (3 * width, 3, 1), start)
            else:
                image = pixels[start : start + 3 * height * width].reshape(height, width, 3)
            if boxes is not None:
                y, x, rows, columns_ = boxes[i].tolist()
                image = image[y : y + rows, x : x + columns_]
                image = image.clone() if hasattr(image, "clone") else image.copy()
        made.append(image)
    return made

"""On a GPU: all images of a call into one block of its memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.decode.arguments import Job
from ffcv_gpu.device import GpuDevice
from ffcv_gpu.device.gpu import Arena
from ffcv_gpu.jpeg.base import ByteArray, Decoded, DecodeStatus, Encoded
from ffcv_gpu.jpeg.scan import NO_FACTS
from ffcv_gpu.steps import IntArray

__all__ = ["on_gpu"]

#: start of each image in the memory that all share, bytes: what the GPU's own allocator aligns to
ALIGNMENT = 256
#: images of one call of nvJPEG: few settings, so that few states are made
SMALL_BATCH, BATCH = 64, 256


def on_gpu(
    job: Job, boxes: IntArray | None, gpu: GpuDevice, paranoid: bool, dct: str
) -> tuple[list[Any], Decoded]:
    """Decode all images, then copy out the rectangles, if there are any; a bad one is None."""
    sizes = -(-3 * job.found.heights * job.found.widths // ALIGNMENT) * ALIGNMENT
    starts: IntArray = np.cumsum(sizes) - sizes
    with gpu.owner.entered():
        pixels, outcome = _decoded(job, starts, int(sizes.sum()), gpu, paranoid, dct)
    return _images(job, starts, pixels, outcome, boxes), outcome


def _decoded(
    job: Job, starts: IntArray, size_bytes: int, gpu: GpuDevice, paranoid: bool, dct: str
) -> tuple[Any, Decoded]:
    """Return uint8 (size_bytes,) on the GPU, when the pixels are there."""
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
        slot.grow(total, 0)
        np.concatenate(job.items, out=slot.pinned[:total])
        with gpu.owner.working_on(gpu.stream):
            pixels = gpu.empty((size_bytes,), "uint8")
        # What was in this memory before may still be read in the order of the stream; the decoder waits for
        # the event on the host, because an engine would not wait for the stream.
        arena = Arena(pixels, gpu.launches.views(pixels), size_bytes, gpu.new_event())
        gpu.stream.record(arena.used)
        decoded = backend.submit(_encoded(job, slot.pinned, which), arena, starts[which]).wait()
    finally:
        gpu.give_back(slot)
    bad = np.flatnonzero(decoded.status).tolist()
    faults = {
        int(which[i]): (DecodeStatus(decoded.status[i]), decoded.reasons.get(i, "no reason given"))
        for i in bad
    }
    ready = gpu.new_event()
    gpu.stream.record(ready)
    gpu.owner.hand_over([pixels], ready)
    return pixels, job.outcome(job.unreadable() | faults)


def _encoded(job: Job, stored: ByteArray, which: IntArray) -> Encoded:
    """Return some images as a backend takes them; `stored` holds all of them, one behind the other."""
    found, lengths = job.found, np.array([item.size for item in job.items], np.int64)
    facts = found.facts.copy()
    facts[found.precisions != 8] = np.array(NO_FACTS, facts.dtype)
    columns = (np.cumsum(lengths) - lengths, lengths, found.heights, found.widths, facts)
    return Encoded(stored, *(column[which] for column in columns))


def _images(job: Job, starts: IntArray, pixels: Any, outcome: Decoded, boxes: IntArray | None) -> list[Any]:
    """Return each image as a view of `pixels`, or its rectangle in memory of its own; None for a bad one."""
    made: list[Any] = []
    columns = (outcome.status, starts, job.found.heights, job.found.widths)
    for i, (status, start, height, width) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        image = None
        if status == DecodeStatus.GOOD:
            image = pixels[start : start + 3 * height * width].reshape(height, width, 3)
            if boxes is not None:
                y, x, rows, columns_ = boxes[i].tolist()
                image = image[y : y + rows, x : x + columns_]
                image = image.clone() if hasattr(image, "clone") else image.copy()
        made.append(image)
    return made

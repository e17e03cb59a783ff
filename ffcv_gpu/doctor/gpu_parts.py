"""Speeds of a GPU's decoders and of the fused launch, each alone, on some of a file's JPEGs in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from ffcv_gpu.crops import CROP_DRAWS, random_resized_crop
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device import GpuDevice
from ffcv_gpu.device.gpu import GpuSlot
from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.trial import REPEATS, Setup
from ffcv_gpu.jpeg.base import Encoded
from ffcv_gpu.jpeg.nvjpeg.backend import NvjpegBackend
from ffcv_gpu.jpeg.routing import GpuDecoders
from ffcv_gpu.kernels.block import BlockLayout, aligned
from ffcv_gpu.kernels.codes import KIND_DECODED, RESAMPLE_AREA, TABLE_COLUMNS
from ffcv_gpu.kernels.starts_cpu import fill_starts
from ffcv_gpu.steps import IntArray

__all__ = ["measure_parts"]

#: JPEGs per call: at most this many, of about this many megapixels in total
IMAGES, MEGAPIXELS = 256, 64.0
#: limits that send every image to the GPU's best decoder, to its cores in batches, and one by one
WAYS = (GpuDecoders(), GpuDecoders(min_side=1 << 30), GpuDecoders(max_pixels=0))
#: batches decoded at the same time, as in a loader
IN_FLIGHT = 2
#: launches per measurement: one takes less time than the wait for it
LAUNCHES = 20


@dataclass(frozen=True)
class _Images:
    """A file's JPEGs as a backend takes them, and where their pixels go after the launch block."""

    encoded: Encoded
    starts: IntArray
    layout: BlockLayout


def measure_parts(gpu: GpuDevice, survey: Survey, setup: Setup) -> tuple[Mapping[str, float], float]:
    """Return images/s of decoding by route, and of the fused launch: random-resized-crop and flip, uint8.

    Routes are those that images really took, named as in ``loader.stats()``; a GPU without JPEG engines has
    no ``"jpeg: engine"``. For a file without JPEGs there are no routes, and 0 for the launch.

    Raises
    ------
    BackendUnavailable
        If nvJPEG cannot be used.
    OutOfGpuMemory
        If the JPEGs or their pixels do not fit.
    """
    rows = [row for row in survey.rows_of_pixels(MEGAPIXELS, 4, IMAGES) if survey.jpeg[row]]
    if not rows:
        return {}, 0.0
    with gpu.owner.entered(), ExitStack() as stack:
        slots = [stack.enter_context(_slot(gpu)) for _ in range(min(IN_FLIGHT, gpu.slots))]
        images = _loaded(slots[0], survey, setup, rows)
        for slot in slots[1:]:
            slot.grow(0, slots[0].arena.size_bytes)
        routes = dict(_decoding(gpu, slots, images, way) for way in WAYS)
        return routes, len(rows) / _seconds(_launching(gpu, slots[0], images), LAUNCHES)


@contextmanager
def _slot(gpu: GpuDevice) -> Iterator[GpuSlot]:
    slot = gpu.borrow(lambda: False)
    assert slot is not None, "nobody gave up"
    try:
        yield slot
    finally:
        gpu.give_back(slot)


def _loaded(slot: GpuSlot, survey: Survey, setup: Setup, rows: Sequence[int]) -> _Images:
    """Read JPEGs into a slot's pinned memory, and allocate its arena for their pixels."""
    assert survey.image is not None
    dataset = Dataset(survey.path, setup.custom_fields, os_cache=True)
    found = dataset.payloads(survey.image)
    assert found is not None
    lengths = np.asarray(found.lengths[rows], np.int64)
    heights, widths = survey.heights[rows], survey.widths[rows]
    layout = BlockLayout(len(rows), setup.side, setup.side, 3, resample=RESAMPLE_AREA)
    sizes = np.array([layout.size_bytes, *map(aligned, (3 * heights * widths).tolist())], np.int64)
    slot.grow(aligned(int(lengths.sum())) + layout.size_bytes, int(sizes.sum()))
    dataset.reader.read_into(found.offsets[rows], lengths, slot.pinned[: int(lengths.sum())])
    encoded = Encoded(slot.pinned, np.cumsum(lengths) - lengths, lengths, heights, widths)
    return _Images(encoded, np.cumsum(sizes)[:-1], layout)


def _decoding(
    gpu: GpuDevice, slots: Sequence[GpuSlot], images: _Images, way: GpuDecoders
) -> tuple[str, float]:
    """Return the route that most images take, and images/s with one batch in flight per slot."""
    count = images.starts.size
    backend = NvjpegBackend(gpu, batch_size=count, slots=len(slots), decoders=way)
    try:

        def decode() -> Mapping[str, int]:
            tickets = [backend.submit(images.encoded, slot.arena, images.starts) for slot in slots]
            outcomes = [ticket.wait() for ticket in tickets]
            return outcomes[0].routes

        routes = decode()  # warm-up: creates nvJPEG's states
        return max(routes, key=lambda name: routes[name]), count / _seconds(decode, len(slots))
    finally:
        backend.close()


def _launching(gpu: GpuDevice, slot: GpuSlot, images: _Images) -> Callable[[], None]:
    """Return a function that launches the kernel on the decoded images, `LAUNCHES` times, and waits."""
    encoded, layout, done = images.encoded, images.layout, gpu.new_event()
    start = aligned(int(encoded.lengths.sum()))
    block = slot.pinned[start : start + layout.size_bytes]
    _write_block(block, images)
    gpu.upload(block, slot.arena, 0, gpu.stream)
    with gpu.owner.working_on(gpu.stream):
        out = gpu.empty((layout.count, layout.out_h, layout.out_w, layout.channels), "uint8")

    def launch() -> None:
        for _ in range(LAUNCHES):
            gpu.launches.compose(slot.arena.views, layout, 0, out, gpu.stream)
        gpu.stream.record(done)
        done.synchronize()

    launch()  # compiles
    return launch


def _write_block(block: Any, images: _Images) -> None:
    """Write a launch's parameters: a random crop of each image, every second one flipped."""
    layout, heights, widths = images.layout, images.encoded.heights, images.encoded.widths
    count, side = layout.count, layout.out_w
    table = np.zeros((count, TABLE_COLUMNS), np.int64)
    table[:, 0], table[:, 1], table[:, 4] = KIND_DECODED, images.starts, 3 * widths
    table[:, 6], table[:, 7] = heights, widths
    geometry = np.tile(np.array([1, 0, 1, 0], np.int32), (count, 1))
    geometry[1::2, 2:] = -1, side - 1
    draws = np.random.default_rng(0).random((count, CROP_DRAWS))
    layout.write(
        block,
        table=table,
        boxes=random_resized_crop(draws, heights, widths, (0.08, 1.0), (3 / 4, 4 / 3)),
        geometry=geometry,
        params=np.zeros((count, 0), np.float32),
        ops=np.zeros((0, 2), np.int32),
        fills=np.zeros((0, 4), np.uint32),
        late_from=0,
        lut=np.tile(np.arange(256, dtype=np.uint8), (3, 1)),
        strides=np.array([side * side * 3, side * 3, 3, 1], np.int64),
    )
    fill_starts(*layout.start_arguments(block), 0, count)


def _seconds(work: Callable[[], Any], times: int) -> float:
    """Return seconds per repetition: the best of a few calls of `work`, each of which does `times`."""
    found = []
    for _ in range(REPEATS):
        begin = perf_counter()
        work()
        found.append(perf_counter() - begin)
    return min(found) / times

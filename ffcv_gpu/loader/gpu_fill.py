"""Fills the pinned memory of one part of a batch: read, check, crop; in the worker threads.

`gpu_jpegs` reads what the GPU decodes, and `gpu_blocks` writes what its kernels are told. Here is the rest:
of raw images, the window that some output uses; the JPEGs that the CPU decodes; the other fields.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device.cpu import read_only
from ffcv_gpu.format import ImageMode
from ffcv_gpu.jpeg.base import Encoded
from ffcv_gpu.jpeg.cropped import spread
from ffcv_gpu.loader.cpu_share import Effort
from ffcv_gpu.loader.faults import Fault, bad_jpegs
from ffcv_gpu.loader.gpu_blocks import LaunchBlocks
from ffcv_gpu.loader.gpu_engine import GpuEngine
from ffcv_gpu.loader.gpu_jpegs import JpegsToSend
from ffcv_gpu.loader.gpu_layout import ImagePlaces, PartLayout
from ffcv_gpu.loader.intake import stage_payloads
from ffcv_gpu.loader.needed import has_crop_index, needed_boxes
from ffcv_gpu.plan import BatchPlan, ImagePayloads, Payloads
from ffcv_gpu.staging import Slot, Staged
from ffcv_gpu.steps import IntArray

__all__ = ["PartFiller"]

ByteArray = npt.NDArray[np.uint8]
#: what a worker thread does for a part
Piece = Callable[[], list[Fault]]

#: Decoding a byte of JPEG on the CPU takes as long as reading this many: 0.66 ms for a photograph of 60 kB
#: (peers.json), and 49 us for reading one of 110 kB (H200, t2_loader).
DECODING = 25
#: Whether JPEGs with an index for crops are cut for the GPU's decoder, too: the pixels are those of whole
#: images, and loading is 1.27 times as fast (H200, e20_crops).
CROPS_ON_GPU = True


class PartFiller:
    """Writes one part of a batch to pinned memory, in independent pieces.

    Parameters
    ----------
    dataset : Dataset
    plan : BatchPlan
    layout : PartLayout
    pinned : uint8 (>= layout.pinned_bytes,)
    engine : GpuEngine
    """

    def __init__(
        self, dataset: Dataset, plan: BatchPlan, layout: PartLayout, pinned: ByteArray, engine: GpuEngine
    ) -> None:
        self._dataset, self._plan, self._layout, self._pinned = dataset, plan, layout, pinned
        self._engine = engine
        self._clock = engine.clock.of_batch(plan.index, plan.epoch)
        rows = slice(layout.lo, layout.hi)
        self._payloads: dict[str, Payloads] = {n: p.take(rows) for n, p in plan.payloads.items()}
        self._decoded = {name: self._jpegs(name, places.raw) for name, places in layout.images.items()}
        #: number of JPEGs that the worker threads decode
        self.decodes = sum(here.size for here in self._decoded.values())
        self._boxes = self._needed_boxes()
        self._sent = {name: self._jpegs_to_send(name) for name in layout.images}
        images = {name: self._image(name) for name in layout.images}
        self._blocks = LaunchBlocks(engine, plan, layout, pinned, images)

    def _jpegs_to_send(self, name: str) -> JpegsToSend:
        boxes = self._boxes.get(name) if self._cuts(name) else None
        return JpegsToSend(
            self._engine, self._plan, self._layout, self._pinned, name, self._image(name), boxes
        )

    def _jpegs(self, name: str, rows: IntArray) -> IntArray:
        """Return which of `rows` are JPEGs, as positions in `rows`."""
        return np.flatnonzero(self._image(name).modes[rows] == ImageMode.JPEG)

    def _needed_boxes(self) -> dict[str, IntArray | None]:
        """Return for each field the rectangles that its outputs use, if only these are decoded."""
        engine = self._engine
        cropping = self.decodes > 0 and engine.host_backend.capabilities.roi
        names = [name for name in engine.images if cropping or self._cuts(name)]
        programs = {name: [p for p in engine.programs if p.field == name] for name in names}
        return {name: needed_boxes(self._plan, group) for name, group in programs.items()}

    def _cuts(self, name: str) -> bool:
        """Return whether the GPU decodes only what is needed, where a JPEG has an index for crops."""
        return CROPS_ON_GPU and has_crop_index(self._payloads[name])

    def write_blocks(self) -> None:
        """Write the launch blocks, except what `fill` adds; called before any piece starts."""
        self._blocks.write()

    def pieces(self, count: int, least_bytes: int) -> list[Piece]:
        """Split the part into pieces of equal work, each a call for some thread.

        There are about `count` of each kind (reading ranges of samples; decoding JPEGs), or fewer of about
        `least_bytes` to read each. A decoded byte counts `DECODING` times.
        """
        size = self._layout.hi - self._layout.lo
        work = 1 + sum(p.lengths for p in self._payloads.values()) + np.zeros(size, np.int64)
        found: list[Piece] = []
        for name, here in self._decoded.items():
            rows = self._layout.images[name].raw[here]
            lengths = self._payloads[name].lengths[rows]
            work[rows] -= lengths
            for lo, hi in parts_of(DECODING * lengths, count, least_bytes):
                found.append(partial(self.decode, name, lo, hi))
        ranges = parts_of(work, count, least_bytes) or [(0, 0)]
        # what takes longest begins first
        return found + [partial(self.fill, lo, hi) for lo, hi in ranges]

    def fill(self, lo: int, hi: int) -> list[Fault]:
        """Write the data of samples [lo, hi) of the part, except for what `decode` does; return their faults.

        If there are any, the data must not reach the GPU: the batch is rebuilt.
        """
        faults: list[Fault] = []
        effort, began = Effort(), time.perf_counter()
        with self._engine.slots.borrow() as scratch:
            for name, places in self._layout.images.items():
                first, last = np.searchsorted(places.jpeg, (lo, hi)).tolist()
                faults += self._sent[name].read(slice(first, last), scratch)
                effort.jpegs += last - first
                faults += self._read_pixels(name, places, lo, hi, scratch)
            for name in self._layout.rows:
                faults += self._read_rows(name, lo, hi, scratch)
        self._blocks.write_starts(lo, hi)
        effort.seconds = time.perf_counter() - began
        self._engine.share.worked(effort)
        return faults

    def decode(self, name: str, lo: int, hi: int) -> list[Fault]:
        """Read and decode JPEGs [lo, hi) of a field, of those that the CPU decodes; return their faults."""
        places, here = self._layout.images[name], self._decoded[name][lo:hi]
        effort, began = Effort(jpegs=here.size), time.perf_counter()
        with self._engine.slots.borrow() as scratch:
            staged, faults = self._stage(name, places.raw[here], scratch)
            if not faults:
                faults = self._decode(name, staged, places, here, effort)
        effort.seconds = time.perf_counter() - began
        self._engine.share.worked(effort)
        return faults

    def encoded(self) -> tuple[Encoded, IntArray]:
        """Return the JPEGs of all fields for one decoder call, and the arena offsets of their pixels."""
        sent, empty = list(self._sent.values()), np.zeros(0, np.int64)

        def joined(arrays: list[Any]) -> Any:
            return np.concatenate(arrays) if arrays else empty

        encoded = Encoded(
            read_only(self._pinned),
            joined([jpegs.starts for jpegs in sent]),
            joined([jpegs.lengths for jpegs in sent]),
            joined([jpegs.heights for jpegs in sent]),
            joined([jpegs.widths for jpegs in sent]),
            joined([jpegs.facts for jpegs in sent]),
            pitches=joined([jpegs.pitches for jpegs in sent]),
        )
        return encoded, joined([jpegs.decoded for jpegs in sent])

    def _image(self, name: str) -> ImagePayloads:
        payloads = self._payloads[name]
        assert isinstance(payloads, ImagePayloads)
        return payloads

    # ---- what is not decoded on the GPU

    def _stage(self, name: str, rows: IntArray, scratch: Slot) -> tuple[Staged, list[Fault]]:
        """Read the payloads of `rows` of the part to scratch memory."""
        clock = self._clock
        return stage_payloads(self._dataset, clock, scratch, self._plan, name, self._layout.lo + rows)

    def _read_pixels(self, name: str, places: ImagePlaces, lo: int, hi: int, scratch: Slot) -> list[Fault]:
        """Write crops of the raw images among samples [lo, hi), and blanks."""
        first, last = np.searchsorted(places.raw, (lo, hi)).tolist()
        here = np.arange(first, last)
        here = here[self._image(name).modes[places.raw[first:last]] != ImageMode.JPEG]
        if not here.size:
            return []
        staged, faults = self._stage(name, places.raw[here], scratch)
        if faults:
            return faults
        images = self._image(name).take(places.raw[here])
        raw = images.modes == ImageMode.RAW
        self._blank(name, places, here[~raw])
        self._copy_windows(name, staged, images, np.flatnonzero(raw), places, here[raw])
        return []

    def _blank(self, name: str, places: ImagePlaces, here: IntArray) -> None:
        _, _, heights, widths = places.windows[here].T.astype(np.int64)
        sizes = self._dataset.pixel_bytes(name) * heights * widths
        for start, size in zip(places.crops[here].tolist(), sizes.tolist(), strict=True):
            self._pinned[start : start + size] = 0

    def _copy_windows(
        self, name: str, staged: Staged, images: ImagePayloads, which: IntArray, places: ImagePlaces,
        here: IntArray,
    ) -> None:  # fmt: skip
        from ffcv_gpu.kernels.copy_cpu import copy_windows

        if not which.size:
            return
        pixel = self._dataset.pixel_bytes(name)
        self._clock.count("raw: crops from the file", which.size)
        with self._clock.span("gather", items=which.size):
            copy_windows(
                read_only(staged.stored),
                staged.offsets[which],
                pixel * images.widths[which],
                places.windows[here],
                pixel,
                self._pinned,
                places.crops[here],
            )

    def _decode(
        self, name: str, staged: Staged, places: ImagePlaces, here: IntArray, effort: Effort
    ) -> list[Fault]:
        backend, clock = self._engine.host_backend, self._clock
        part = self._image(name).take(places.raw[here])
        rows = self._layout.lo + places.raw[here]
        boxes = self._boxes.get(name)
        encoded = Encoded(
            staged.stored, staged.offsets, part.lengths, part.heights, part.widths, part.facts,
            boxes=None if boxes is None else boxes[rows],
        )  # fmt: skip
        began = time.perf_counter()
        with clock.span(self._engine.host_stage, items=here.size):
            outcome = backend.submit(encoded, self._pinned, places.crops[here]).wait()
            spread(outcome, encoded, self._pinned, places.crops[here])
        effort.decoding_seconds, effort.decoded = time.perf_counter() - began, here.size
        clock.count(f"jpeg: {backend.name}", here.size)
        return bad_jpegs(self._dataset, self._plan, name, rows, outcome, backend.name)

    def _read_rows(self, name: str, lo: int, hi: int, scratch: Slot) -> list[Fault]:
        from ffcv_gpu.kernels.shell_cpu import gather

        rows = self._layout.rows[name]
        count = self._layout.hi - self._layout.lo
        table = self._pinned[rows.start : rows.start + count * rows.row_bytes].reshape(count, rows.row_bytes)
        if name not in self._payloads:  # numbers, which are in the metadata
            ids = self._plan.sample_ids[self._layout.lo + lo : self._layout.lo + hi]
            values = np.ascontiguousarray(self._dataset.scalars([name], ids)[0])
            table[lo:hi] = values.view(np.uint8).reshape(hi - lo, rows.row_bytes)
            return []
        staged, faults = self._stage(name, np.arange(lo, hi), scratch)
        lengths = staged.payloads.lengths
        with self._clock.span("gather", items=hi - lo):
            gather(read_only(staged.stored), staged.offsets, lengths, table[lo:hi], 0, hi - lo)
        return faults


def parts_of(work: IntArray, count: int, least: int) -> list[tuple[int, int]]:
    """Split rows into about `count` ranges [lo, hi) of equal work, or fewer of about `least` each."""
    if not work.size:
        return []
    ends = np.cumsum(work)
    count = min(count, max(int(ends[-1]) // least, 1))
    cuts = np.searchsorted(ends, np.arange(1, count) * (ends[-1] / count)) + 1
    edges = np.unique(np.concatenate([[0], np.minimum(cuts, work.size), [work.size]]))
    return list(pairwise(edges.tolist()))

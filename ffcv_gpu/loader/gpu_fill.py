"""Fills the pinned memory of one part of a batch: read, check, crop; in the worker threads.

`gpu_jpegs` reads what the GPU decodes, and `gpu_blocks` writes what its kernels are told. Here is the rest:
of raw images, the window that some output uses; the JPEGs that the CPU decodes; the other fields.
"""

from __future__ import annotations

import time
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
from ffcv_gpu.plan import BLANK_IMAGE, BatchPlan, ImagePayloads, Payloads
from ffcv_gpu.staging import Slot, Staged
from ffcv_gpu.steps import IntArray

__all__ = ["PartFiller"]

ByteArray = npt.NDArray[np.uint8]

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
        self.decodes = sum(rows.size for rows in self._decoded.values())
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
        jpegs: IntArray = rows[self._image(name).modes[rows] == ImageMode.JPEG]
        return jpegs

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

    def pieces(self, count: int, least_bytes: int) -> list[tuple[int, int]]:
        """Split the part into ranges of samples [lo, hi) with equal numbers of bytes to read.

        There are about `count`, or fewer of about `least_bytes` each. What the CPU decodes counts `DECODING`
        times.
        """
        size = self._layout.hi - self._layout.lo
        work = 1 + sum(p.lengths for p in self._payloads.values()) + np.zeros(size, np.int64)
        for name, rows in self._decoded.items():
            work[rows] += DECODING * self._payloads[name].lengths[rows]
        ends = np.cumsum(work)
        if not size:
            return [(0, 0)]
        count = min(count, max(int(ends[-1]) // least_bytes, 1))
        cuts = np.searchsorted(ends, np.arange(1, count) * (ends[-1] / count)) + 1
        edges = np.unique(np.concatenate([[0], np.minimum(cuts, size), [size]]))
        return list(pairwise(edges.tolist()))

    def fill(self, lo: int, hi: int) -> list[Fault]:
        """Write the data of samples [lo, hi) of the part; return their faults.

        If there are any, the data must not reach the GPU: the batch is rebuilt.
        """
        faults: list[Fault] = []
        effort, began = Effort(), time.perf_counter()
        with self._engine.slots.borrow() as scratch:
            for name, places in self._layout.images.items():
                first, last = np.searchsorted(places.jpeg, (lo, hi)).tolist()
                faults += self._sent[name].read(slice(first, last), scratch)
                effort.jpegs += last - first
                first, last = np.searchsorted(places.raw, (lo, hi)).tolist()
                faults += self._read_pixels(name, places, first, last, scratch, effort)
            for name in self._layout.rows:
                faults += self._read_rows(name, lo, hi, scratch)
        self._blocks.write_starts(lo, hi)
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

    def _read_pixels(
        self, name: str, places: ImagePlaces, first: int, last: int, scratch: Slot, effort: Effort
    ) -> list[Fault]:
        """Write what is uploaded as pixels: crops of raw images, JPEGs decoded on the CPU, and blanks."""
        if first == last:
            return []
        staged, faults = self._stage(name, places.raw[first:last], scratch)
        if faults:
            return faults
        images, here = self._image(name).take(places.raw[first:last]), np.arange(first, last)
        raw, jpeg = images.modes == ImageMode.RAW, images.modes == ImageMode.JPEG
        self._blank(name, places, here[images.modes == BLANK_IMAGE])
        self._copy_windows(name, staged, images, np.flatnonzero(raw), places, here[raw])
        return self._decode(name, staged, images, np.flatnonzero(jpeg), places, here[jpeg], effort)

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
        self, name: str, staged: Staged, images: ImagePayloads, which: IntArray, places: ImagePlaces,
        here: IntArray, effort: Effort,
    ) -> list[Fault]:  # fmt: skip
        if not which.size:
            return []
        backend, clock, part = self._engine.host_backend, self._clock, images.take(which)
        rows = self._layout.lo + places.raw[here]
        boxes = self._boxes.get(name)
        encoded = Encoded(
            staged.stored, staged.offsets[which], part.lengths, part.heights, part.widths, part.facts,
            boxes=None if boxes is None else boxes[rows],
        )  # fmt: skip
        began = time.perf_counter()
        with clock.span(self._engine.host_stage, items=which.size):
            outcome = backend.submit(encoded, self._pinned, places.crops[here]).wait()
            spread(outcome, encoded, self._pinned, places.crops[here])
        effort.decoding_seconds += time.perf_counter() - began
        effort.jpegs += which.size
        effort.decoded += which.size
        clock.count(f"jpeg: {backend.name}", which.size)
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

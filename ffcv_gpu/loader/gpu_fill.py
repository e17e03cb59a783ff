"""Fills the pinned memory of one part of a batch: read, check, crop; in the worker threads.

Compressed JPEGs are read to where the GPU's decoder expects them; of raw images, only the window that some
output uses is copied.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher, PassLauncher, finished_table, pixel_table
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device.cpu import read_only
from ffcv_gpu.format import JPEG_FACTS, ImageMode, JpegFlag
from ffcv_gpu.jpeg.base import Encoded
from ffcv_gpu.jpeg.cropped import cut_crops, spread
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import (
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    KIND_DECODED,
)
from ffcv_gpu.loader.cpu_share import Effort
from ffcv_gpu.loader.faults import Fault, bad_jpegs
from ffcv_gpu.loader.gpu_engine import GpuEngine
from ffcv_gpu.loader.gpu_layout import ImagePlaces, LaunchPlace, PartLayout
from ffcv_gpu.loader.intake import read_into_place, stage_payloads
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


class Sent(NamedTuple):
    """The JPEGs of one field that the GPU decodes, int64 (n,) each: images, or parts of images.

    Their bytes and pixels, and where the pixels go in the arena.
    """

    lengths: IntArray
    heights: IntArray
    widths: IntArray
    decoded: IntArray


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
        self._outputs = {output: name for name, outputs in engine.images.items() for output in outputs}
        rows = slice(layout.lo, layout.hi)
        self._payloads: dict[str, Payloads] = {n: p.take(rows) for n, p in plan.payloads.items()}
        self._decoded = {name: self._jpegs(name, places.raw) for name, places in layout.images.items()}
        #: number of JPEGs that the worker threads decode
        self.decodes = sum(rows.size for rows in self._decoded.values())
        self._facts = {name: self._known_facts(name, places.jpeg) for name, places in layout.images.items()}
        self._boxes = self._needed_boxes()
        self._sent = {name: self._whole_jpegs(name, places) for name, places in layout.images.items()}

    def _known_facts(self, name: str, jpeg: IntArray) -> npt.NDArray[Any]:
        """Return the file's facts about its JPEGs, or uninitialised memory for them if it has none."""
        known = self._image(name).facts
        return np.empty(jpeg.size, JPEG_FACTS) if known is None else known[jpeg]

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

    def _whole_jpegs(self, name: str, places: ImagePlaces) -> Sent:
        """Return what the GPU's decoder gets if it decodes whole images."""
        images = self._image(name)
        lengths, heights, widths = (
            column[places.jpeg] for column in (images.lengths, images.heights, images.widths)
        )
        return Sent(lengths, heights, widths, places.decoded.copy())

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
                faults += self._read_jpegs(name, places, first, last, scratch)
                effort.jpegs += last - first
                first, last = np.searchsorted(places.raw, (lo, hi)).tolist()
                faults += self._read_pixels(name, places, first, last, scratch, effort)
            for name in self._layout.rows:
                faults += self._read_rows(name, lo, hi, scratch)
        self._write_starts(lo, hi)
        effort.seconds = time.perf_counter() - began
        self._engine.share.worked(effort)
        return faults

    def encoded(self) -> tuple[Encoded, IntArray]:
        """Return the JPEGs of all fields for one decoder call, and the arena offsets of their pixels."""
        found = [(self._image(name), places) for name, places in self._layout.images.items()]
        empty = np.zeros(0, np.int64)

        def joined(arrays: list[Any]) -> Any:
            return np.concatenate(arrays) if arrays else empty

        encoded = Encoded(
            read_only(self._pinned),
            joined([places.encoded for _, places in found]),
            joined([sent.lengths for sent in self._sent.values()]),
            joined([sent.heights for sent in self._sent.values()]),
            joined([sent.widths for sent in self._sent.values()]),
            joined(list(self._facts.values())),
            pitches=joined([3 * images.widths[places.jpeg] for images, places in found]),
        )
        return encoded, joined([sent.decoded for sent in self._sent.values()])

    def _image(self, name: str) -> ImagePayloads:
        payloads = self._payloads[name]
        assert isinstance(payloads, ImagePayloads)
        return payloads

    # ---- payloads

    def _read_jpegs(
        self, name: str, places: ImagePlaces, first: int, last: int, scratch: Slot
    ) -> list[Fault]:
        if first == last:
            return []
        if self._cuts(name) and self._boxes[name] is not None:
            return self._cut_jpegs(name, places, slice(first, last), scratch)
        rows, starts = places.jpeg[first:last], places.encoded[first:last]
        faults = read_into_place(
            self._dataset, self._clock, self._pinned, starts, self._plan, name, self._layout.lo + rows
        )
        if not faults and self._image(name).facts is None:  # no facts from damaged headers
            self._facts[name][first:last] = self._look_up_facts(name, rows, starts)
        return faults

    def _cut_jpegs(self, name: str, places: ImagePlaces, which: slice, scratch: Slot) -> list[Fault]:
        """Write JPEGs of what the outputs need; their pixels go where the whole image has them."""
        rows, sent = places.jpeg[which], self._sent[name]
        staged, faults = self._stage(name, rows, scratch)
        if faults:
            return faults
        images = self._image(name).take(rows)
        parts = self._parts_to_send(name, images, rows)
        where = staged.offsets, images.lengths, parts, images.heights, images.widths
        with self._clock.span("gather", items=rows.size):
            lengths, windows = cut_crops(
                read_only(staged.stored),
                *where,
                self._pinned,
                places.encoded[which],
                whole=True,
            )
        sent.lengths[which], sent.heights[which], sent.widths[which] = lengths, windows[:, 2], windows[:, 3]
        sent.decoded[which] += 3 * (images.widths * windows[:, 0] + windows[:, 1])
        return []

    def _parts_to_send(self, name: str, images: ImagePayloads, rows: IntArray) -> IntArray:
        """Return what is to be decoded of each JPEG: the whole, unless the file says that it has an index.

        Other programs leave the index in a JPEG that they have changed: then it is not to be followed.
        """
        boxes = self._boxes[name]
        assert boxes is not None and images.facts is not None, "the file's facts name those with an index"
        zeros = np.zeros_like(images.heights)
        whole = np.stack([zeros, zeros, images.heights, images.widths], axis=1)
        indexed = images.facts["flags"] & int(JpegFlag.CROP_INDEX) != 0
        return np.where(indexed[:, None], boxes[self._layout.lo + rows], whole)

    def _look_up_facts(self, name: str, rows: IntArray, starts: IntArray) -> npt.NDArray[Any]:
        images = self._image(name).take(rows)
        with self._clock.span("scan", items=rows.size):
            samples = self._plan.sample_ids[self._layout.lo + rows]
            sizes = images.heights, images.widths
            return self._dataset.found_facts(name).look_up(
                samples, self._pinned, starts, images.lengths, *sizes
            )

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

    # ---- launch blocks

    def write_blocks(self) -> None:
        """Write the launch blocks of all outputs except the start tables; called before any piece starts."""
        layout = self._layout
        for name, launchers in self._engine.launches.items():
            table, stages = self._table(name), self._plan.stages[name]
            for launch, place, stage in zip(launchers, layout.launches[name], stages, strict=True):
                plan: Any = stage.take(slice(layout.lo, layout.hi))
                block: Any = place.block
                launch.write_block(block, self._block(place), plan, table)
                table = self._finished(launch, place.target)

    def _write_starts(self, lo: int, hi: int) -> None:
        for name, launchers in self._engine.launches.items():
            for launch, place in zip(launchers, self._layout.launches[name], strict=True):
                if isinstance(place.block, BlockLayout) and isinstance(launch, Launcher):
                    launch.write_starts(place.block, self._block(place), lo, hi)

    def _block(self, place: LaunchPlace) -> ByteArray:
        return self._pinned[place.start : place.start + place.block.size_bytes]

    def _table(self, output: str) -> IntArray:
        """Return the pixel table of an output's first launch, whose pixels are all in the arena."""
        field = self._outputs[output]
        images, places, pixel = (
            self._image(field),
            self._layout.images[field],
            self._dataset.pixel_bytes(field),
        )
        starts = np.zeros_like(images.widths)
        starts[places.jpeg] = places.decoded
        table = pixel_table(starts, KIND_DECODED, images.heights, images.widths, 3)
        y, x, _, width = places.windows.T.astype(np.int64)
        # Boxes refer to the whole image, of which only a window is stored: this is where (0, 0) would be.
        table[places.raw, COLUMN_OFFSET0] = places.crops - pixel * (y * width + x)
        table[places.raw, COLUMN_PITCH0] = pixel * width
        return table

    def _finished(self, before: Launcher | PassLauncher, start: int) -> IntArray:
        """Return the pixel table of a later launch: contiguous images of one size."""
        count, stage = self._layout.hi - self._layout.lo, before.stage
        return finished_table((count, *stage.frame, stage.channels), start)

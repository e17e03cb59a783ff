"""One lane: some samples of a batch, from the file to the finished output, in one thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher, PassLauncher, finished_pixels, pixel_table
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device import CpuDevice, PixelSource
from ffcv_gpu.device.wide import compose_wide
from ffcv_gpu.format import ImageMode
from ffcv_gpu.jpeg.base import Encoded, JpegBackend
from ffcv_gpu.kernels.codes import COLUMN_KIND, COLUMN_OFFSET0, COLUMN_PITCH0, KIND_DECODED, KIND_STORED
from ffcv_gpu.loader.faults import Fault, bad_jpegs
from ffcv_gpu.loader.intake import stage_payloads
from ffcv_gpu.plan import BLANK_IMAGE, BatchPlan, ImagePayloads
from ffcv_gpu.staging import Slot, Staged
from ffcv_gpu.steps import IntArray
from ffcv_gpu.trace import StageClock

__all__ = ["Lane"]

ByteArray = npt.NDArray[np.uint8]
#: alignment of each image in the arena, in bytes: a cache line
ALIGNMENT = 64
#: as plain numbers: a member of an enum takes microseconds to look up
JPEG, RAW = int(ImageMode.JPEG), int(ImageMode.RAW)


@dataclass(frozen=True)
class Lane:
    """Samples [lo, hi) of one batch, and what is needed to process them.

    `faults` has those found so far. A batch with faults is rebuilt instead of finished, so after a fault
    nothing is launched any more.
    """

    dataset: Dataset
    device: CpuDevice
    backend: JpegBackend
    clock: StageClock
    slot: Slot
    plan: BatchPlan
    lo: int
    hi: int
    faults: list[Fault] = field(default_factory=list)

    def stage(self, name: str) -> Staged:
        """Read the payloads of one field into memory; bad ones are added to `faults` and blanked."""
        rows = range(self.lo, self.hi)
        staged, faults = stage_payloads(self.dataset, self.clock, self.slot, self.plan, name, rows)
        if not faults:
            return staged
        self.faults.extend(faults)
        bad = np.array([fault.row - self.lo for fault in faults])
        return Staged(staged.stored, staged.offsets, staged.payloads.blanked(bad))

    def gather(self, staged: Staged, outputs: Sequence[npt.NDArray[Any]]) -> None:
        """Copy payloads of arrays or byte strings into the rows of `outputs`, padded with zeros."""
        with self.clock.span("gather", items=self.hi - self.lo):
            for output in outputs:
                rows = output[self.lo : self.hi]
                self.device.gather(staged.stored, staged.offsets, staged.payloads.lengths, rows)

    def decode(
        self, name: str, staged: Staged, images: ImagePayloads, boxes: IntArray | None = None
    ) -> PixelSource:
        """Decode the JPEGs among `images`; raw images stay where they are, blank ones become zeros.

        Images that cannot be decoded are added to `faults`. `boxes`, one per sample of the batch, are the
        parts of the images that are needed; all other pixels are undefined.
        """
        pixel = self.dataset.pixel_bytes(name)
        table = pixel_table(staged.offsets, KIND_STORED, images.heights, images.widths, pixel)
        made = np.flatnonzero(images.modes != RAW)
        self.clock.count("raw: from the file", images.modes.size - made.size)
        if not made.size:
            return PixelSource(table, staged.stored[:0], staged.stored)
        sizes = -(-max(pixel, 3) * images.heights[made] * images.widths[made] // ALIGNMENT) * ALIGNMENT
        starts = np.cumsum(sizes) - sizes
        arena = self.slot.arena(name, int(sizes.sum()))
        table[made, COLUMN_KIND], table[made, COLUMN_OFFSET0] = KIND_DECODED, starts
        for i in np.flatnonzero(images.modes[made] == BLANK_IMAGE).tolist():
            arena[starts[i] : starts[i] + sizes[i]] = 0
        is_jpeg = images.modes[made] == JPEG
        jpeg, starts = made[is_jpeg], starts[is_jpeg]
        if not jpeg.size:
            return PixelSource(table, arena, staged.stored)
        where = (staged.offsets[jpeg], images.lengths[jpeg], images.heights[jpeg], images.widths[jpeg])
        needed = None if boxes is None else boxes[self.lo + jpeg]
        with self.clock.span("decode", items=jpeg.size):
            facts = None if needed is None or images.facts is None else images.facts[jpeg]
            encoded = Encoded(staged.stored, *where, facts, needed)
            outcome = self.backend.submit(encoded, arena, starts).wait()
        if outcome.windows is not None:
            y, x, _, width = outcome.windows.T
            # Boxes refer to the whole image, of which only a window is there: this is where (0, 0) would be.
            table[jpeg, COLUMN_OFFSET0] = starts - 3 * (y * width + x)
            table[jpeg, COLUMN_PITCH0] = 3 * width
        self.clock.count(f"jpeg: {self.backend.name}", jpeg.size)
        rows, who = self.lo + jpeg, self.backend.name
        self.faults.extend(bad_jpegs(self.dataset, self.plan, name, rows, outcome, who))
        return PixelSource(table, arena, staged.stored)

    def compose(
        self,
        name: str,
        launches: Sequence[Launcher | PassLauncher],
        pixels: PixelSource,
        output: npt.NDArray[Any],
    ) -> None:
        """Run the launches of output `name`; the last one writes to the rows of `output`."""
        count = self.hi - self.lo
        with self.clock.span("compose", items=count):
            out: Any = None
            for number, (launch, plan) in enumerate(
                zip(launches, self.plan.stages[name], strict=True), start=1
            ):
                last = number == len(launches)
                rows: Any = plan.take(slice(self.lo, self.hi))
                if isinstance(launch, PassLauncher):
                    out = out if launch.in_place else self._between(launch, number)
                    self.device.transform(launch.arguments(rows), pixels, out, self.slot.scratch)
                else:
                    out = output[self.lo : self.hi] if last else self._between(launch, number)
                    work, stage = launch.arguments(rows), launch.stage
                    if stage.wide:
                        compose_wide(work, pixels, out.transpose(0, 2, 3, 1) if stage.planar else out)
                    else:
                        self.device.compose(work, pixels, out, self.slot.scratch)
                if not last:
                    pixels = finished_pixels(out)

    def _between(self, launch: Launcher | PassLauncher, number: int) -> ByteArray:
        """Return memory for the uint8 images that pass from one launch to the next."""
        shape = (self.hi - self.lo, *launch.stage.memory_shape)
        size = int(np.prod(shape))
        memory: ByteArray = self.slot.arena(f"between {number}", size)[:size].reshape(shape)
        return memory

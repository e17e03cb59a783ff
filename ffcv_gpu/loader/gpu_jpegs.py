"""The JPEGs of one part of a batch that the GPU decodes, read to where its decoder expects them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device.cpu import read_only
from ffcv_gpu.format import JPEG_FACTS, JpegFlag
from ffcv_gpu.jpeg.cropped import cut_crops
from ffcv_gpu.loader.faults import Fault
from ffcv_gpu.loader.gpu_engine import GpuEngine
from ffcv_gpu.loader.gpu_layout import PartLayout
from ffcv_gpu.loader.intake import read_into_place, stage_payloads
from ffcv_gpu.plan import BatchPlan, ImagePayloads
from ffcv_gpu.staging import Slot
from ffcv_gpu.steps import IntArray

__all__ = ["JpegsToSend"]

ByteArray = npt.NDArray[np.uint8]


class JpegsToSend:
    """The compressed bytes of n JPEGs in pinned memory, whole or cut to what the outputs need.

    The arrays below are those of whole images until `read` has cut them. Disjoint ranges may be read by
    several threads at once.

    Parameters
    ----------
    engine : GpuEngine
    plan : BatchPlan
    layout : PartLayout
    pinned : uint8 (>= layout.pinned_bytes,)
    name : str
        The field.
    images : ImagePayloads
        All images of the part, JPEGs or not.
    boxes : int64 (batch, 4) or None
        What the outputs need of each image of the batch (y, x, height, width), if JPEGs with an index for
        crops are to be cut to it.

    Attributes
    ----------
    rows : int64 (n,)
        Which samples of the part they are.
    starts : int64 (n,)
        Where their bytes are in `pinned`.
    lengths, heights, widths : int64 (n,)
        Bytes and pixels of what is decoded.
    pitches : int64 (n,)
        Bytes from one row of decoded pixels to the next: those of the whole image.
    decoded : int64 (n,)
        Where the pixels go in the arena.
    facts : JPEG_FACTS (n,)
        Of the whole images; what the file does not say is found while reading.
    """

    def __init__(
        self,
        engine: GpuEngine,
        plan: BatchPlan,
        layout: PartLayout,
        pinned: ByteArray,
        name: str,
        images: ImagePayloads,
        boxes: IntArray | None,
    ) -> None:
        self._dataset, self._plan, self._pinned, self._name = engine.dataset, plan, pinned, name
        self._clock = engine.clock.of_batch(plan.index, plan.epoch)
        self._first_row, self._boxes = layout.lo, boxes
        places = layout.images[name]
        self.rows, self.starts, self.decoded = places.jpeg, places.encoded, places.decoded.copy()
        self._images = images.take(self.rows)
        self.lengths, self.heights, self.widths = (
            column.copy() for column in (self._images.lengths, self._images.heights, self._images.widths)
        )
        self.pitches = 3 * self._images.widths
        known = self._images.facts
        self.facts = np.empty(self.rows.size, JPEG_FACTS) if known is None else known

    def read(self, which: slice, scratch: Slot) -> list[Fault]:
        """Read JPEGs ``which.start`` to ``which.stop - 1`` and check them; return their faults."""
        if which.start == which.stop:
            return []
        return self._read_whole(which) if self._boxes is None else self._read_and_cut(which, scratch)

    def _read_whole(self, which: slice) -> list[Fault]:
        rows = self._first_row + self.rows[which]
        starts = self.starts[which]
        faults = read_into_place(
            self._dataset, self._clock, self._pinned, starts, self._plan, self._name, rows
        )
        if not faults and self._images.facts is None:  # no facts from damaged headers
            self.facts[which] = self._look_up_facts(which)
        return faults

    def _look_up_facts(self, which: slice) -> npt.NDArray[np.void]:
        samples = self._plan.sample_ids[self._first_row + self.rows[which]]
        sizes = self.heights[which], self.widths[which]
        with self._clock.span("scan", items=samples.size):
            return self._dataset.found_facts(self._name).look_up(
                samples, self._pinned, self.starts[which], self.lengths[which], *sizes
            )

    def _read_and_cut(self, which: slice, scratch: Slot) -> list[Fault]:
        """Write JPEGs of what the outputs need; their pixels go where the whole image has them."""
        rows = self._first_row + self.rows[which]
        staged, faults = stage_payloads(self._dataset, self._clock, scratch, self._plan, self._name, rows)
        if faults:
            return faults
        whole = self.lengths[which], self._parts(which), self.heights[which], self.widths[which]
        with self._clock.span("gather", items=rows.size):
            lengths, windows = cut_crops(
                read_only(staged.stored),
                staged.offsets,
                *whole,
                self._pinned,
                self.starts[which],
                whole=True,
            )
        y, x, heights, widths = windows.T
        self.lengths[which], self.heights[which], self.widths[which] = lengths, heights, widths
        self.decoded[which] += self.pitches[which] * y + 3 * x
        return []

    def _parts(self, which: slice) -> IntArray:
        """Return what is to be decoded of each JPEG: the whole, unless the file says that it has an index.

        Other programs leave the index in a JPEG that they have changed: then it is not to be followed.
        """
        assert self._boxes is not None and self._images.facts is not None, (
            "the facts name those with an index"
        )
        heights, widths = self.heights[which], self.widths[which]
        zeros = np.zeros_like(heights)
        whole = np.stack([zeros, zeros, heights, widths], axis=1)
        indexed = self.facts["flags"][which] & int(JpegFlag.CROP_INDEX) != 0
        return np.where(indexed[:, None], self._boxes[self._first_row + self.rows[which]], whole)

"""Where everything of one batch lies: in the pinned slot that is filled, and in the arena on the GPU.

::

    pinned   launch blocks | arrays and numbers | crops of raw images | compressed JPEGs
    arena    launch blocks | arrays and numbers | crops of raw images | decoded JPEGs | between launches
             `------------- one asynchronous copy ------------------´

The front has the same places for every batch of a size; what follows depends on the images. Pure
arithmetic on the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher
from ffcv_gpu.format import ImageMode
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.plan import BatchPlan, ImagePayloads
from ffcv_gpu.steps import IntArray

__all__ = ["ALIGNMENT", "ImagePlaces", "PartLayout", "Rows", "lay_out", "sample_bytes", "split"]

#: start of each thing in the arena, in bytes: what cudaMalloc aligns to, and more than any vector load wants
ALIGNMENT = 256
#: start of each image, in bytes: a cache line
IMAGE_ALIGNMENT = 64


@dataclass(frozen=True)
class Rows:
    """A field whose payloads are rows of one length: `start` in pinned memory and arena, `row_bytes` each."""

    start: int
    row_bytes: int


@dataclass(frozen=True)
class ImagePlaces:
    """Where the images of one field lie.

    Attributes
    ----------
    jpeg, raw : int64 (n_jpeg,), (n_raw,)
        Which samples of the part are decoded on the GPU, and which come as pixels: raw images, and JPEGs
        that the CPU shall decode.
    encoded : int64 (n_jpeg,)
        Start of each JPEG in pinned memory; they lie one behind the other.
    decoded : int64 (n_jpeg,)
        Start of its pixels in the arena.
    windows : int32 (n_raw, 4)
        y, x, height, width of the pixels that are uploaded: all that any output shows of a raw image, the
        whole of a decoded one.
    crops : int64 (n_raw,)
        Start of that in pinned memory and arena.
    """

    jpeg: IntArray
    raw: IntArray
    encoded: IntArray
    decoded: IntArray
    windows: npt.NDArray[np.int32]
    crops: IntArray


@dataclass(frozen=True)
class PartLayout:
    """Everything of samples [lo, hi) of a batch.

    Attributes
    ----------
    blocks : mapping of str to sequence of (int, BlockLayout)
        For each output, start and shape of each launch block.
    rows : mapping of str to Rows
    images : mapping of str to ImagePlaces
    between, between_ends : tuple of int
        Where the images lie that launch 1, 2, ... of an output leaves to the next one.
    upload_bytes, pinned_bytes, arena_bytes : int
    """

    lo: int
    hi: int
    blocks: Mapping[str, Sequence[tuple[int, BlockLayout]]]
    rows: Mapping[str, Rows]
    images: Mapping[str, ImagePlaces]
    between: tuple[int, ...]
    between_ends: tuple[int, ...]
    upload_bytes: int
    pinned_bytes: int
    arena_bytes: int


class _Places:
    """Hands out places one behind the other."""

    def __init__(self) -> None:
        self.end = 0

    def take(self, size_bytes: int) -> int:
        start = -(-self.end // ALIGNMENT) * ALIGNMENT
        self.end = start + size_bytes
        return start

    def take_all(self, sizes: IntArray, alignment: int) -> IntArray:
        """Return the start of each of many."""
        padded = -(-sizes // alignment) * alignment
        starts: IntArray = self.take(int(padded.sum())) + np.cumsum(padded) - padded
        return starts


def lay_out(
    plan: BatchPlan,
    lo: int,
    hi: int,
    launches: Mapping[str, Sequence[Launcher]],
    outputs_of: Mapping[str, Sequence[str]],
    row_bytes: Mapping[str, int],
    *,
    host_decodes: bool = False,
) -> PartLayout:
    """Return where everything of samples [lo, hi) of `plan` lies.

    Parameters
    ----------
    plan : BatchPlan
    lo, hi : int
    launches : mapping of str to sequence of Launcher
        The launches of each output.
    outputs_of : mapping of str to sequence of str
        The outputs made from each image field.
    row_bytes : mapping of str to int
        For each field of arrays or numbers, the bytes of one sample's row.
    host_decodes : bool
        JPEGs are decoded by the CPU, and uploaded as pixels.
    """
    count, front = hi - lo, _Places()
    blocks = {
        name: tuple(
            (front.take(block.size_bytes), block) for block in (one.block(count) for one in launchers)
        )
        for name, launchers in launches.items()
    }
    rows = {name: Rows(front.take(count * size), size) for name, size in row_bytes.items()}
    found = {}
    for name, outputs in outputs_of.items():
        payloads = plan.payloads[name].take(slice(lo, hi))
        assert isinstance(payloads, ImagePayloads)
        boxes = np.stack([plan.stages[output][0].boxes[lo:hi] for output in outputs])
        on_gpu = (payloads.modes == ImageMode.JPEG) & (not host_decodes)
        jpeg, raw = np.flatnonzero(on_gpu), np.flatnonzero(~on_gpu)
        windows = _windows(payloads.take(raw), boxes[:, raw])
        crops = front.take_all(3 * windows[:, 2].astype(np.int64) * windows[:, 3], IMAGE_ALIGNMENT)
        found[name] = payloads, jpeg, raw, windows, crops
    pinned, arena = _Places(), _Places()
    pinned.end = arena.end = front.end
    images = {}
    for name, (payloads, jpeg, raw, windows, crops) in found.items():
        encoded = pinned.take_all(payloads.lengths[jpeg], 1)
        decoded = arena.take_all(3 * payloads.heights[jpeg] * payloads.widths[jpeg], IMAGE_ALIGNMENT)
        images[name] = ImagePlaces(jpeg, raw, encoded, decoded, windows, crops)
    steps = [(arena.take(count * size), count * size) for size in _between_bytes(launches)]
    between, ends = tuple(start for start, _ in steps), tuple(start + size for start, size in steps)
    return PartLayout(lo, hi, blocks, rows, images, between, ends, front.end, pinned.end, arena.end)


def _windows(images: ImagePayloads, boxes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return what is uploaded of images that come as pixels, (n, 4); `boxes` is (outputs, n, 4)."""
    first = boxes[..., :2].min(axis=0)
    last = (boxes[..., :2] + boxes[..., 2:]).max(axis=0)
    whole = np.stack([np.zeros_like(images.heights)] * 2 + [images.heights, images.widths], axis=1)
    shown = np.concatenate([first, last - first], axis=1)
    decoded = (images.modes == ImageMode.JPEG)[:, None]
    return np.where(decoded, whole, shown).astype(np.int32)


def _between_bytes(launches: Mapping[str, Sequence[Launcher]]) -> list[int]:
    """Return the bytes of one sample between launches 1 and 2, 2 and 3, ...: the largest of any output."""
    depth = max((len(launchers) for launchers in launches.values()), default=0)
    sizes = []
    for number in range(depth - 1):
        shapes = [one[number].stage.memory_shape for one in launches.values() if len(one) > number + 1]
        sizes.append(max(int(np.prod(shape)) for shape in shapes))
    return sizes


def sample_bytes(
    plan: BatchPlan,
    launches: Mapping[str, Sequence[Launcher]],
    image_fields: Sequence[str],
    row_bytes: Mapping[str, int],
) -> IntArray:
    """Return what each sample of a batch takes of arena or pinned memory, whichever is more; int64 (N,)."""
    total = np.full(len(plan), sum(row_bytes.values()) + sum(_between_bytes(launches)), np.int64)
    total += sum(one.block(1).size_bytes for launchers in launches.values() for one in launchers)
    for name in image_fields:
        payloads = plan.payloads[name]
        assert isinstance(payloads, ImagePayloads)
        total += np.maximum(3 * payloads.heights * payloads.widths + IMAGE_ALIGNMENT, payloads.lengths)
    return total


def split(sizes: IntArray, limit: int) -> list[tuple[int, int]]:
    """Cut samples into ranges [lo, hi) of at most `limit` bytes; a sample larger than that stands alone."""
    ends, ranges, lo = np.cumsum(sizes), [], 0
    while lo < sizes.size:
        before = int(ends[lo - 1]) if lo else 0
        hi = max(int(np.searchsorted(ends, before + limit, side="right")), lo + 1)
        ranges.append((lo, hi))
        lo = hi
    return ranges

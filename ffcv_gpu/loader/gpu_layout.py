"""The memory layout of one batch, in the pinned slot that is filled and in the arena on the GPU.

::

    pinned   launch blocks | arrays and numbers | crops of raw images | compressed JPEGs
    arena    launch blocks | arrays and numbers | crops of raw images | decoded JPEGs | between launches
             `------------- one asynchronous copy ------------------´

The first two sections have the same offsets for all batches of one size; the rest depends on the images.
This module only computes offsets from the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher, PassLauncher
from ffcv_gpu.format import ImageMode
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.pass_block import PassLayout
from ffcv_gpu.plan import BatchPlan, ImagePayloads, PassPlan, StagePlan
from ffcv_gpu.steps import IntArray

__all__ = [
    "ALIGNMENT",
    "ImagePlaces",
    "LaunchPlace",
    "PartLayout",
    "Rows",
    "lay_out",
    "sample_bytes",
    "split",
]

Launchers = Sequence[Launcher | PassLauncher]

#: alignment in the arena, in bytes: that of cudaMalloc, and more than any vector load needs
ALIGNMENT = 256
#: alignment of each image, in bytes: a cache line
IMAGE_ALIGNMENT = 64


@dataclass(frozen=True)
class Rows:
    """A field with rows of `row_bytes` bytes each, from `start` on in both pinned memory and arena."""

    start: int
    row_bytes: int


@dataclass(frozen=True)
class ImagePlaces:
    """Where the images of one field are, in bytes from the start of pinned memory or arena.

    Attributes
    ----------
    jpeg, raw : int64 (n_jpeg,), (n_raw,)
        Which samples of the part are decoded on the GPU, and which are uploaded as pixels: raw images, and
        JPEGs that the CPU decodes.
    encoded : int64 (n_jpeg,)
        Start of each JPEG in pinned memory; their places are contiguous. A part of one takes less than that.
    decoded : int64 (n_jpeg,)
        Start of its pixels in the arena.
    windows : int32 (n_raw, 4)
        y, x, height, width of the pixels that are uploaded: what any output uses of a raw image, the whole
        of a decoded one.
    crops : int64 (n_raw,)
        Start of these pixels in both pinned memory and arena.
    """

    jpeg: IntArray
    raw: IntArray
    encoded: IntArray
    decoded: IntArray
    windows: npt.NDArray[np.int32]
    crops: IntArray


@dataclass(frozen=True)
class LaunchPlace:
    """One launch of an output: its block, source and target, as byte offsets in the arena.

    Attributes
    ----------
    start : int
    block : BlockLayout or PassLayout
    source : int
        Start of the images that the previous launch wrote; unused by the first.
    target, target_bytes : int
        Where it writes its images; the last launch of an output writes to the output instead.
    scratch : int
        Start of its scratch memory.
    """

    start: int
    block: BlockLayout | PassLayout
    source: int
    target: int
    target_bytes: int
    scratch: int


@dataclass(frozen=True)
class PartLayout:
    """The layout of samples [lo, hi) of a batch.

    Attributes
    ----------
    launches : mapping of str to sequence of LaunchPlace
        For each output.
    rows : mapping of str to Rows
    images : mapping of str to ImagePlaces
    upload_bytes, pinned_bytes, arena_bytes : int
    """

    lo: int
    hi: int
    launches: Mapping[str, Sequence[LaunchPlace]]
    rows: Mapping[str, Rows]
    images: Mapping[str, ImagePlaces]
    upload_bytes: int
    pinned_bytes: int
    arena_bytes: int


class _Places:
    """Assigns consecutive offsets."""

    def __init__(self) -> None:
        self.end = 0

    def take(self, size_bytes: int) -> int:
        start = -(-self.end // ALIGNMENT) * ALIGNMENT
        self.end = start + size_bytes
        return start

    def take_all(self, sizes: IntArray, alignment: int) -> IntArray:
        """Return the start of each of many items."""
        padded = -(-sizes // alignment) * alignment
        starts: IntArray = self.take(int(padded.sum())) + np.cumsum(padded) - padded
        return starts


def lay_out(
    plan: BatchPlan,
    lo: int,
    hi: int,
    launches: Mapping[str, Launchers],
    outputs_of: Mapping[str, Sequence[str]],
    row_bytes: Mapping[str, int],
    on_cpu: Mapping[str, npt.NDArray[np.bool_]],
) -> PartLayout:
    """Return the layout of samples [lo, hi) of `plan`.

    Parameters
    ----------
    plan : BatchPlan
    lo, hi : int
    launches : mapping of str to sequence of Launcher or PassLauncher
        The launches of each output.
    outputs_of : mapping of str to sequence of str
        The outputs made from each image field.
    row_bytes : mapping of str to int
        For each field of arrays or numbers, the bytes of one sample's row.
    on_cpu : mapping of str to bool (hi - lo,)
        For each image field, the samples whose JPEGs are decoded on the CPU and uploaded as pixels.
    """
    count, front = hi - lo, _Places()
    blocks = {name: blocks_of(plan, name, launchers, count) for name, launchers in launches.items()}
    starts = {name: [front.take(block.size_bytes) for block in found] for name, found in blocks.items()}
    rows = {name: Rows(front.take(count * size), size) for name, size in row_bytes.items()}
    found = {}
    for name, outputs in outputs_of.items():
        payloads = plan.payloads[name].take(slice(lo, hi))
        assert isinstance(payloads, ImagePayloads)
        on_gpu = (payloads.modes == ImageMode.JPEG) & ~on_cpu[name]
        jpeg, raw = np.flatnonzero(on_gpu), np.flatnonzero(~on_gpu)
        firsts = [plan.stages[output][0].take(slice(lo, hi)) for output in outputs]
        windows = _windows(payloads.take(raw), [_crops(first, raw) for first in firsts])
        channels = launches[outputs[0]][0].stage.channels
        crops = front.take_all(channels * windows[:, 2].astype(np.int64) * windows[:, 3], IMAGE_ALIGNMENT)
        found[name] = payloads, jpeg, raw, windows, crops
    pinned, arena = _Places(), _Places()
    pinned.end = arena.end = front.end
    images = {}
    for name, (payloads, jpeg, raw, windows, crops) in found.items():
        encoded = pinned.take_all(payloads.lengths[jpeg], 1)
        decoded = arena.take_all(3 * payloads.heights[jpeg] * payloads.widths[jpeg], IMAGE_ALIGNMENT)
        images[name] = ImagePlaces(jpeg, raw, encoded, decoded, windows, crops)
    between, scratch = _between_bytes(launches), _scratch_bytes(blocks)
    turns = (arena.take(count * between), arena.take(count * between))
    rest = arena.take(scratch)
    places = {
        name: tuple(_places(launchers, starts[name], blocks[name], turns, rest))
        for name, launchers in launches.items()
    }
    return PartLayout(lo, hi, places, rows, images, front.end, pinned.end, arena.end)


def blocks_of(
    plan: BatchPlan, output: str, launchers: Launchers, count: int
) -> list[BlockLayout | PassLayout]:
    """Return the block layouts of an output's launches."""
    stages = plan.stages[output]
    return [one.block(count, stage.params.shape[1]) for one, stage in zip(launchers, stages, strict=True)]


def _crops(stage: StagePlan | PassPlan, rows: IntArray) -> npt.NDArray[np.int32] | None:
    """Return the crops of a first launch, (n, 4); None if it uses whole images."""
    return stage.boxes[rows] if isinstance(stage, StagePlan) else None


def _windows(images: ImagePayloads, crops: Sequence[npt.NDArray[np.int32] | None]) -> npt.NDArray[np.int32]:
    """Return the windows of images that are uploaded as pixels, (n, 4); `crops` has those of each output."""
    zeros = np.zeros_like(images.heights)
    whole = np.stack([zeros, zeros, images.heights, images.widths], axis=1)
    boxes = np.stack([whole if crop is None else crop for crop in crops])
    first = boxes[..., :2].min(axis=0)
    last = (boxes[..., :2] + boxes[..., 2:]).max(axis=0)
    shown = np.concatenate([first, last - first], axis=1)
    decoded = (images.modes == ImageMode.JPEG)[:, None]
    return np.where(decoded, whole, shown).astype(np.int32)


def _places(
    launchers: Launchers,
    starts: Sequence[int],
    blocks: Sequence[BlockLayout | PassLayout],
    turns: tuple[int, int],
    scratch: int,
) -> Iterator[LaunchPlace]:
    """Yield the places of an output's launches; images alternate between the two buffers `turns`."""
    source, number = 0, 0
    for launch, start, block in zip(launchers, starts, blocks, strict=True):
        target = source
        if not launch.in_place:
            target = turns[number % 2]
            number += 1
        size = block.count * int(np.prod(launch.stage.memory_shape))
        yield LaunchPlace(start, block, source, target, size, scratch)
        source = target


def _between_bytes(launches: Mapping[str, Launchers]) -> int:
    """Return the bytes of the largest image that one launch passes to the next."""
    left = (one.stage.memory_shape for launchers in launches.values() for one in launchers[:-1])
    return max((int(np.prod(shape)) for shape in left), default=0)


def _scratch_bytes(blocks: Mapping[str, Sequence[BlockLayout | PassLayout]]) -> int:
    """Return the bytes of scratch memory of the launch that needs most."""
    passes = (block for found in blocks.values() for block in found if isinstance(block, PassLayout))
    return max((block.scratch_bytes for block in passes), default=0)


def sample_bytes(
    plan: BatchPlan,
    launches: Mapping[str, Launchers],
    image_fields: Sequence[str],
    row_bytes: Mapping[str, int],
) -> IntArray:
    """Return the bytes each sample takes in arena or pinned memory, whichever is more; int64 (N,)."""
    blocks = {name: blocks_of(plan, name, launchers, 1) for name, launchers in launches.items()}
    fixed = sum(row_bytes.values()) + 2 * _between_bytes(launches) + _scratch_bytes(blocks)
    fixed += sum(block.size_bytes for found in blocks.values() for block in found)
    total = np.full(len(plan), fixed, np.int64)
    for name in image_fields:
        payloads = plan.payloads[name]
        assert isinstance(payloads, ImagePayloads)
        # 3 channels of a JPEG, or the bytes of a raw image of any kind
        total += np.maximum(3 * payloads.heights * payloads.widths, payloads.lengths) + IMAGE_ALIGNMENT
    return total


def split(sizes: IntArray, limit: int) -> list[tuple[int, int]]:
    """Split samples into ranges [lo, hi) of at most `limit` bytes; a larger sample gets its own range."""
    ends, ranges, lo = np.cumsum(sizes), [], 0
    while lo < sizes.size:
        before = int(ends[lo - 1]) if lo else 0
        hi = max(int(np.searchsorted(ends, before + limit, side="right")), lo + 1)
        ranges.append((lo, hi))
        lo = hi
    return ranges

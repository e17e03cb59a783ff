"""Chooses the GPU's decoder for each image: pure arithmetic on facts, no parsing, no GPU.

The facts come from the dataset (`ffcv_gpu.format.JPEG_FACTS`) or from `ffcv_gpu.jpeg.scan`. Limits come from
NVIDIA's header and guide, from other libraries' sources, or from experiments on an H200
(``benchmarks/results/nvidia-h200``); each names its source.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ffcv_gpu.format import JpegFlag
from ffcv_gpu.steps import IntArray

__all__ = [
    "NO_ROUTE", "GpuDecoders", "Route", "RouteArray", "choose_routes", "constant_batch", "decode_order",
    "engine_groups", "join_small_share", "next_routes", "only_on_cpu",
]  # fmt: skip

RouteArray = npt.NDArray[np.int8]
Integers = npt.NDArray[np.integer[Any]]

#: `JPEG_FACTS["encoding"]`, the frame's marker. nvJPEG's parser rejects all others (arithmetic, lossless,
#: hierarchical; tried).
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2


def _among(*values: int) -> npt.NDArray[np.bool_]:
    """Return bool (256,), True at `values`; negative values index from the end."""
    table = np.zeros(256, np.bool_)
    table[list(values)] = True
    return table


_KNOWN_FRAMES: Final = _among(BASELINE, EXTENDED, PROGRESSIVE)
_KNOWN_COMPONENTS: Final = _among(1, 3, 4)
#: Subsamplings that every nvJPEG decoder supports: 4:4:4, 4:2:2, 4:2:0, 4:4:0, grey (nvjpeg.h). The engine
#: does not support 4:1:1 (4), 4:1:0 (5) or any other (-1).
_EVERYWHERE: Final = _among(0, 1, 2, 3, 6)

_GREY: Final = 6

#: The engine's largest side: 16384 pixels are decoded, 16400 rejected (H200, e12_sizes).
ENGINE_MAX_SIDE: Final = 16_384
#: The engine's smallest side: an image of one pixel is decoded correctly (H200, e12_sizes).
ENGINE_MIN_SIDE: Final = 1
#: Larger images never go to the engine: for 256 of this size, nvJPEG's own memory is about 3 GB per batch in
#: flight. Not measured yet: what larger ones would cost on which GPU, and how much faster they would be.
MAX_PIXELS: Final = 4_000_000
#: A batched call of this many images or fewer silently decodes Huffman codes on the CPU (nvjpeg.h).
HUFFMAN_MAX_SHARE: Final = 50
#: The smallest constant batch for GPU Huffman: the next round number above that. Not measured yet.
HUFFMAN_BATCH: Final = 64
#: From this size on, GPU-assisted Huffman decoding pays for a single image; below it, the CPU is faster
#: (nvImageCodec's and DALI's threshold). Not measured yet.
LARGE_PIXELS: Final = 1_000_000


class Route(IntEnum):
    """A way to decode an image."""

    #: the hardware engine, in batches
    ENGINE = 0
    #: Huffman codes and pixels by the GPU's cores, in batches
    GPU_HUFFMAN = 1
    #: one image at a time, in phases; Huffman codes assisted by the GPU
    DECOUPLED_GPU = 2
    #: one image at a time, in phases; Huffman codes on the CPU
    DECOUPLED_HYBRID = 3
    #: libjpeg-turbo on the CPU; the pixels are uploaded
    CPU = 4


NO_ROUTE: Final = -1
"""`next_routes` returns this for an image that failed on its last route."""


@dataclass(frozen=True, kw_only=True)
class GpuDecoders:
    """The decoders of one GPU and their limits.

    Attributes
    ----------
    lanes : int
        Images that the engines decode at the same time: engines times cores, as the library counts them; 0
        for a GPU without engine.
    min_side, max_side : int
        The engine's smallest and largest side in pixels.
    max_pixels : int
        Largest image of a batched call; memory is reserved for it.
    huffman_max_share : int
        A batched call of this many images or fewer does not use GPU Huffman.
    huffman_batch : int
        The smallest constant batch for GPU Huffman.
    large_pixels : int
        Size from which a single image uses GPU-assisted Huffman.
    """

    lanes: int = 0
    min_side: int = ENGINE_MIN_SIDE
    max_side: int = ENGINE_MAX_SIDE
    max_pixels: int = MAX_PIXELS
    huffman_max_share: int = HUFFMAN_MAX_SHARE
    huffman_batch: int = HUFFMAN_BATCH
    large_pixels: int = LARGE_PIXELS


def choose_routes(
    facts: npt.NDArray[Any],
    heights: Integers,
    widths: Integers,
    lengths: Integers,
    *,
    gpu: GpuDecoders,
    usable: npt.NDArray[np.bool_] | None = None,
) -> RouteArray:
    """Return the first route to try for each image, whatever its batch.

    Parameters
    ----------
    facts : JPEG_FACTS (n,)
    heights, widths : integers (n,)
        In pixels.
    lengths : integers (n,)
        Size of each file in bytes.
    gpu : GpuDecoders
    usable : bool (n,), optional
        False sends an image to the CPU whatever its facts: it failed a check, or has 12-bit samples, which
        the facts do not show.

    Returns
    -------
    int8 (n,) of `Route`
    """
    # int64 before any product: stored sides are uint16
    high, wide = heights.astype(np.int64), widths.astype(np.int64)
    encoding, flags = facts["encoding"], facts["flags"]
    good = ~only_on_cpu(facts) & (lengths > 0) & (high > 0) & (wide > 0)
    if usable is not None:
        good &= usable
    # First match, top down; the order is part of the policy.
    table: tuple[tuple[npt.NDArray[np.bool_], Route | RouteArray], ...] = (
        (~good, Route.CPU),
        ((encoding == PROGRESSIVE) | _has(flags, JpegFlag.MULTI_SCAN), Route.DECOUPLED_HYBRID),
        (~_EVERYWHERE[facts["subsampling"]], Route.GPU_HUFFMAN),
        (np.maximum(high, wide) > gpu.max_side, Route.DECOUPLED_GPU),
        (high * wide > gpu.max_pixels, _single(high * wide, gpu)),
        (np.minimum(high, wide) < gpu.min_side, Route.GPU_HUFFMAN),
    )
    chosen: RouteArray = np.full(high.shape, Route.ENGINE if gpu.lanes else Route.GPU_HUFFMAN, np.int8)
    for condition, route in reversed(table):
        np.copyto(chosen, np.int8(route), where=condition)
    return chosen


def only_on_cpu(facts: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which kinds of JPEG nvJPEG rejects or gets wrong, bool (n,)."""
    components, flags = facts["components"], facts["flags"]
    known = _KNOWN_FRAMES[facts["encoding"]] & _KNOWN_COMPONENTS[components]
    # All nvJPEG decoders misread red, green and blue as luma and chroma (13.3.2, e01_kinds).
    wrong = _has(flags, JpegFlag.RGB_CODED)
    found: npt.NDArray[np.bool_] = ~known | wrong | (components == 4) | _has(flags, JpegFlag.CMYK)
    return found


def join_small_share(
    routes: RouteArray,
    heights: Integers,
    widths: Integers,
    *,
    gpu: GpuDecoders,
) -> RouteArray:
    """Return one batch's routes with a GPU-Huffman share that is too small replaced by single decoding.

    The Huffman codes of such a share would silently be decoded on the CPU, in one thread. Returns a new
    array, unless nothing changes.

    Parameters
    ----------
    routes : int8 (n,)
        From `choose_routes`, for the images that are decoded in one call.
    heights, widths : integers (n,)
        In pixels.
    gpu : GpuDecoders
    """
    share = routes == Route.GPU_HUFFMAN
    if not 0 < np.count_nonzero(share) <= gpu.huffman_max_share:
        return routes
    return np.where(share, _single(_pixels(heights, widths), gpu), routes).astype(np.int8)


def next_routes(
    routes: RouteArray,
    heights: Integers,
    widths: Integers,
    *,
    gpu: GpuDecoders,
) -> RouteArray:
    """Return the next routes of images that failed: batched, then one by one, then CPU, then `NO_ROUTE`.

    A batched call that fails does not say which image is bad, so all its images take this step.

    Parameters
    ----------
    routes : int8 (n,)
        Routes that failed.
    heights, widths : integers (n,)
        In pixels.
    gpu : GpuDecoders
    """
    batched = (routes == Route.ENGINE) | (routes == Route.GPU_HUFFMAN)
    single = (routes == Route.DECOUPLED_GPU) | (routes == Route.DECOUPLED_HYBRID)
    after = (_single(_pixels(heights, widths), gpu), Route.CPU)
    return np.select((batched, single), after, default=NO_ROUTE).astype(np.int8)


def engine_groups(facts: npt.NDArray[Any]) -> IntArray:
    """Return a group number for each image of the engine, int64 (n,): a call should hold only one group.

    Judging by the kernels that follow, the engine decodes 4:4:4 and grey into one kind of surface, and each
    other subsampling into its own. Changes of surface within a call are slow: a batch of ImageNet's photos in
    dataset order is decoded at 4,900 images/s, a sorted one at 10,100; only 4:4:4 at 20,900, only 4:2:0 at
    32,800 (H200, e15_mixture). Not measured: several kinds in one state, with one call each.
    """
    subsampling = facts["subsampling"].astype(np.int64)
    return np.where(subsampling == _GREY, 0, subsampling)


def decode_order(
    facts: npt.NDArray[Any],
    heights: Integers,
    widths: Integers,
) -> IntArray:
    """Return the order in which a batch is passed to nvJPEG: by `engine_groups`, then largest first.

    Almost DALI's order. Largest first keeps engines evenly busy: 20,900 images/s instead of 18,500 for
    ImageNet's 4:4:4, 32,800 instead of 21,800 for its 4:2:0 (H200, e15_mixture). The sort is stable.
    ``order[k]`` is the image at position k, int64 (n,), a permutation. Unknown subsamplings come last.
    """
    groups = engine_groups(facts).view(np.uint64)  # -1 becomes the largest
    order: IntArray = np.lexsort((-_pixels(heights, widths), groups)).astype(np.int64)
    return order


def constant_batch(images: int, *, gpu: GpuDecoders) -> int:
    """Return the constant batch size for calls to the GPU's cores: at least `images`.

    It is larger than the batches whose Huffman codes nvJPEG decodes on the CPU. (Calls to the engines vary in
    size: preparing a state for another size has no measurable cost, H200, e15_mixture.)
    """
    return max(images, gpu.huffman_batch, gpu.huffman_max_share + 1)


def _has(flags: npt.NDArray[Any], flag: JpegFlag) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (flags & np.uint16(flag)) != 0
    return found


def _pixels(heights: Integers, widths: Integers) -> IntArray:
    return heights.astype(np.int64) * widths.astype(np.int64)


def _single(pixels: IntArray, gpu: GpuDecoders) -> RouteArray:
    """Return the route of images that are decoded one by one."""
    return np.where(pixels >= gpu.large_pixels, Route.DECOUPLED_GPU, Route.DECOUPLED_HYBRID).astype(np.int8)

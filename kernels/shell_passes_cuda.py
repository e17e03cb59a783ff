"""Launches on a GPU between fused ones: `transform` turns images into images, `measure` computes means.

As in `shell_cuda`, nothing waits, allocates or copies, and everything lies in one buffer.
"""

from __future__ import annotations

import functools
from math import prod
from typing import Any

import numpy as np

from ffcv_gpu.kernels import passes_cuda
from ffcv_gpu.kernels._numba import kernel
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.pass_block import PassLayout
from ffcv_gpu.kernels.pass_codes import (
    PASS_BLEND,
    PASS_BLUR,
    PASS_PAD,
    PASS_REMAP,
    PASS_SHARPEN,
    PASS_WARP,
)
from ffcv_gpu.kernels.passes_cuda import THREADS
from ffcv_gpu.kernels.shell_cuda import Views, configured

__all__ = ["measure", "transform"]


def measure(
    buffer: Views, layout: BlockLayout, start: int, columns: tuple[int, ...], source: int, *, stream: int = 0
) -> None:
    """Write each finished image's mean grey value to columns of a fused launch's parameters.

    Parameters
    ----------
    buffer : Views
    layout, start
        The launch block's, as for `shell_cuda.compose`.
    columns : tuple of int
    source : int
        First byte of the images, (N, out_h, out_w, channels).
    stream : int
    """
    if layout.count == 0:
        return
    shape = (layout.out_h, layout.out_w, layout.channels)
    images = part(buffer.pixels, source, layout.count * prod(shape), 1)
    params = part(buffer.reals, start + layout.offsets.params, layout.count * layout.params, 4)
    for column in columns:
        numbers = map(np.int32, (layout.params, column, *shape))
        configured(compiled("mean_grey"), (layout.count, 1, 1), THREADS, stream)(images, params, *numbers)


def transform(
    buffer: Views, layout: PassLayout, start: int, source: int, target: int, scratch: int, *, stream: int = 0
) -> None:
    """Run one launch of `pass_codes` on finished images.

    Parameters
    ----------
    buffer : Views
        Holds the block, the images and the scratch memory.
    layout : PassLayout
    start : int
        First byte of the block.
    source, target : int
        First byte of the images that are read, and of those that are written; equal for launches in place.
        PASS_PAD reads at its table's offsets.
    scratch : int
        First byte of ``layout.scratch_bytes`` bytes of scratch memory.
    stream : int
    """
    if layout.count == 0:
        return
    count, size = layout.count, prod(layout.shape)
    table_at, params_at, *constants_at = (start + offset for offset in layout.offsets)
    params = part(buffer.reals, params_at, count * layout.params, 4)
    images, out = (part(buffer.pixels, at, count * size, 1) for at in (source, target))
    shape = tuple(map(np.int32, layout.shape))
    values, pixels = blocks(size), blocks(layout.shape[0] * layout.shape[1])

    def run(name: str, each: int, *arguments: Any) -> None:
        configured(compiled(name), (count * each, 1, 1), THREADS, stream)(*arguments, *shape)

    if layout.kernel == PASS_PAD:
        run("pad", values, buffer.pixels, part(buffer.longs, table_at, count * 8, 8), out)
    elif layout.kernel == PASS_BLUR:
        between, taps = part(buffer.reals, scratch, count * size, 4), np.int32(layout.params)
        run("blur_columns", values, images, params, taps, between)
        run("blur_rows", values, between, params, taps, out)
    elif layout.kernel == PASS_SHARPEN:
        run("sharpen", values, images, params, out)
    elif layout.kernel == PASS_WARP:
        fill = part(buffer.pixels, constants_at[0], layout.constants[0][1], 1)
        run("warp", pixels, images, params, fill, out)
    elif layout.kernel == PASS_REMAP:
        run("remap", 1, out, params)
    elif layout.kernel == PASS_BLEND:
        sizes = [number for _, number in layout.constants]
        shared = [part(buffer.reals, at, n, 4) for at, n in zip(constants_at, sizes, strict=True)]
        run("blend", values, out, params, *shared)
    else:
        raise ValueError(f"transform: no launch has the code {layout.kernel}")


def part(view: Any, start: int, count: int, itemsize: int) -> Any:
    """Return `count` elements of a view of the buffer, beginning at byte `start`."""
    return view[start // itemsize : start // itemsize + count]


def blocks(size: int) -> int:
    """Return the number of blocks that have a thread for each of a sample's `size` values."""
    return -(-size // THREADS)


@functools.cache
def compiled(name: str) -> Any:
    """Return a kernel of `passes_cuda`."""
    return kernel(getattr(passes_cuda, name))

"""Launches on a GPU: `compose` turns the pixels in a buffer into finished samples; sentinels for decoders.

Nothing here waits, allocates or copies. Kernels are compiled at the first launch of their kind, and cached on
disk. Arrays may come from any library that provides ``__cuda_array_interface__`` (torch, CuPy, numba).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda.core import config

from ffcv_gpu.kernels import pixels_cuda, planes_cuda
from ffcv_gpu.kernels._numba import kernel
from ffcv_gpu.kernels.block import ALIGNMENT, BlockLayout
from ffcv_gpu.kernels.bodies_cuda import MAX_THREADS
from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS
from ffcv_gpu.kernels.sentinel_cuda import compare_marks, write_marks

__all__ = ["Views", "compose", "grids", "stamp", "unchanged", "views"]

WARP = 32
BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}
STAMP_THREADS = 128

_switching = threading.Lock()


class Views(NamedTuple):
    """Flat views of one GPU buffer with four dtypes; up to 7 bytes at its end are left out of the wider ones.

    The buffer holds launch blocks, pixels and anything else; it must outlive the launches.
    """

    pixels: Any
    longs: Any
    words: Any
    reals: Any
    address: int


def views(buffer: Any) -> Views:
    """Return the views that launches take. Takes some 100 microseconds: keep them with the buffer.

    Parameters
    ----------
    buffer : uint8 (bytes,) on the GPU, contiguous
        Its address must be a multiple of 16, as that of every allocation is.
    """
    pixels = cuda.as_cuda_array(buffer, sync=False)
    if pixels.dtype != np.uint8 or pixels.ndim != 1 or not pixels.is_c_contiguous():
        raise ValueError(
            f"views: the buffer must be flat, contiguous uint8, not {pixels.dtype}{pixels.shape}"
        )
    whole = pixels[: pixels.size // 8 * 8]
    kinds = (whole.view(dtype) for dtype in (np.int64, np.int32, np.float32))
    return Views(pixels, *kinds, address=interface_of(buffer)["data"][0])


def compose(buffer: Views, out: Any, layout: BlockLayout, start: int, *, stream: int = 0) -> None:
    """Crop, resample, mirror, shift, colour, erase and look up the samples of a launch block.

    The levels that are looked up in the table are within one of those of `shell_cpu.compose`, and equal where
    pixels are only copied. Nothing is checked on the GPU; `BlockLayout.write` checks everything but offsets
    and pitches.

    Parameters
    ----------
    buffer : Views
        Holds the block and the pixels; offsets in the block's table are relative to its first byte.
    out : array on the GPU, contiguous, elements of 1, 2 or 4 bytes
        Written as bits, whatever its dtype. (torch's bfloat16 has no array interface: pass
        ``out.view(torch.int16)``.)
    layout : BlockLayout
        1, 3 or 4 channels.
    start : int
        Byte of the buffer at which the block begins, a multiple of 16.
    stream : int
        A ``cudaStream_t``; 0 is the default stream. The launch is queued on it; the call returns at once.

    Raises
    ------
    ValueError
        If the number of channels, `start` or `out` is not as described.
    """
    if layout.count == 0:
        return
    if start % ALIGNMENT:
        raise ValueError(f"compose: the block starts at byte {start}, which is not a multiple of {ALIGNMENT}")
    target, itemsize = bits_of(out)
    for function, grid, threads in launches(layout, itemsize):
        configured(function, grid, threads, stream)(buffer.address, buffer.address + start, target)


def stamp(buffer: Views, starts: Any, marks: Any, *, stream: int = 0) -> None:
    """Write row i of `marks` to the buffer at byte ``starts[i]``, in stream order.

    Parameters
    ----------
    starts : int64 (n,) on the GPU, contiguous
    marks : uint8 (n, width) on the GPU, contiguous
    """
    count, width = marks.shape
    if count * width:
        grid = -(-count * width // STAMP_THREADS)
        arrays = buffer.pixels, on_device(starts), on_device(marks).reshape(count * width)
        configured(write_kernel(), (grid, 1, 1), STAMP_THREADS, stream)(*arrays, np.int32(width))


def unchanged(buffer: Views, starts: Any, marks: Any, same: Any, *, stream: int = 0) -> None:
    """Check for each row of `marks` whether it is still in the buffer, in stream order.

    Parameters
    ----------
    starts, marks :
        As for `stamp`.
    same : uint8 (n,) on the GPU
        Set to 1 where it is, else to 0; the caller copies it and waits.
    """
    count, width = marks.shape
    if count:
        arrays = buffer.pixels, on_device(starts), on_device(marks).reshape(count * width), on_device(same)
        grid = -(-count // STAMP_THREADS)
        configured(compare_kernel(), (grid, 1, 1), STAMP_THREADS, stream)(*arrays, np.int32(width))


def grids(layout: BlockLayout, strip_rows: int) -> tuple[tuple[int, int, int], int]:
    """Return the grid (samples, strips, parts of the width) and the threads per block."""
    parts = -(-layout.out_w // MAX_THREADS)
    columns = -(-layout.out_w // parts)
    threads = -(-columns // WARP) * WARP
    return (layout.count, -(-layout.out_h // strip_rows), -(-layout.out_w // threads)), threads


def launches(layout: BlockLayout, itemsize: int) -> list[tuple[Any, tuple[int, int, int], int]]:
    """Return the kernels of a launch with their grids and threads; of two, each skips the other's samples."""
    antialias = layout.resample == RESAMPLE_ANTIALIAS
    if layout.channels not in (1, 3, 4):
        raise ValueError(f"compose: {layout.channels} channels; there are GPU kernels for 1, 3 and 4")
    kind = antialias, layout.coloured, itemsize
    found = [(pixels_kernel(layout.channels, *kind), *grids(layout, pixels_cuda.STRIP_ROWS))]
    if layout.ycbcr and layout.channels == 3:
        found.append((planes_kernel(*kind), *grids(layout, planes_cuda.STRIP_ROWS)))
    return found


@functools.cache
def pixels_kernel(channels: int, antialias: bool, coloured: bool, itemsize: int) -> Any:
    """Return the kernel for interleaved samples."""
    made = pixels_cuda.make_kernel(channels, antialias, coloured, BITS[itemsize])
    return kernel(made, launch_bounds=pixels_cuda.launch_bounds(channels, antialias))


@functools.cache
def planes_kernel(antialias: bool, coloured: bool, itemsize: int) -> Any:
    """Return the kernel for samples in planes."""
    return kernel(planes_cuda.make_kernel(antialias, coloured, BITS[itemsize]))


@functools.cache
def write_kernel() -> Any:
    """Return the kernel of `stamp`."""
    return kernel(write_marks)


@functools.cache
def compare_kernel() -> Any:
    """Return the kernel of `unchanged`."""
    return kernel(compare_marks)


def on_device(array: Any) -> Any:
    """Return any library's GPU array as one of numba's; nothing is copied or waited for."""
    return cuda.as_cuda_array(array, sync=False)


def interface_of(array: Any) -> Any:
    """Return an array's CUDA array interface."""
    return array.__cuda_array_interface__


def bits_of(out: Any) -> tuple[int, int]:
    """Return the address of an output, and the size of an element in bytes."""
    interface = interface_of(out)
    itemsize = int(interface["typestr"][2:])
    if interface.get("strides") is not None or itemsize not in BITS:
        raise ValueError(
            f"compose: out must be contiguous, with 1, 2 or 4 bytes per element, not {interface['typestr']} "
            f"with strides {interface.get('strides')}"
        )
    return interface["data"][0], itemsize


@functools.lru_cache(maxsize=256)
def configured(function: Any, grid: tuple[int, int, int], threads: int, stream: int) -> Any:
    """Return a kernel configured for a grid and stream; each configuration is made once."""
    queue = cuda.external_stream(stream) if stream else 0
    with small_grids_allowed():
        return function[grid, threads, queue]


@contextmanager
def small_grids_allowed() -> Iterator[None]:
    """Suppress numba's warning about small grids, which a small last batch would raise.

    This uses numba's own switch. Filters of `warnings` belong to the whole process: two threads that change
    and restore them at the same time can leave all warnings off for good.
    """
    with _switching:
        before = config.CUDA_LOW_OCCUPANCY_WARNINGS
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
        try:
            yield
        finally:
            config.CUDA_LOW_OCCUPANCY_WARNINGS = before

"""Gathering copies: concatenated byte ranges, pieces of memory, and rectangles from images.

Serial loops without the GIL; the loader's threads divide a batch among them.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ffcv_gpu.kernels._numba import entry

__all__ = ["copy_memory", "copy_ranges", "copy_windows", "spread_windows"]


@intrinsic
def copy_bytes(_, address, out, start, length):
    """Copy `length` bytes from an address to ``out[start:]``, by the C library's memcpy."""

    def generate(context, builder, signature, arguments):
        source = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        target = context.make_array(signature.args[1])(context, builder, arguments[1]).data
        target = builder.gep(builder.bitcast(target, cgutils.voidptr_t), [arguments[2]])
        cgutils.raw_memcpy(builder, target, source, arguments[3], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, out, types.int64, types.int64), generate


@intrinsic
def move_bytes(_, out, start, end, length):
    """Copy ``out[start : start + length]`` to ``out[end:]``, by the C library's memmove."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        source, target = (
            builder.gep(builder.bitcast(data, cgutils.voidptr_t), [at]) for at in arguments[1:3]
        )
        cgutils.raw_memmove(builder, target, source, arguments[3], 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, types.int64, types.int64), generate


@entry
def copy_memory(addresses, lengths, out, starts, lo, hi):
    """Copy pieces of memory [lo, hi), each from its own address.

    Parameters
    ----------
    addresses : uint64 (N,)
        They cannot be checked.
    lengths : int64 (N,)
        Bytes of each piece.
    out : uint8 (bytes,), C-contiguous
    starts : int64 (N,)
        Where in `out` each begins.
    lo, hi : int

    Raises
    ------
    ValueError
        If a piece does not fit into `out`, or an array has fewer entries than `hi`; the pieces before it are
        copied.
    """
    if lo < 0 or hi > min(min(addresses.size, lengths.size), starts.size):
        raise ValueError("copy_memory: an array has fewer entries than hi")
    for n in range(lo, hi):
        start, length = starts[n], lengths[n]
        if start < 0 or length < 0 or start + length > out.size:
            raise ValueError("copy_memory: a piece does not fit")
        copy_bytes(addresses[n], out, start, length)


@entry
def copy_ranges(stored, offsets, lengths, out):
    """Copy ranges of `stored` into `out`, concatenated.

    Parameters
    ----------
    stored : uint8 (bytes,), C-contiguous, read-only
    offsets, lengths : int64 (N,)
    out : uint8 (sum of lengths,), C-contiguous

    Raises
    ------
    ValueError
        If a range lies outside `stored` or `out` is too small; the ranges before it are copied.
    """
    at = 0
    for n in range(offsets.size):
        begin, length = offsets[n], lengths[n]
        if begin < 0 or length < 0 or begin + length > stored.size or at + length > out.size:
            raise ValueError("copy_ranges: a range does not fit")
        source, target = stored[begin : begin + length], out[at : at + length]
        for i in range(length):
            target[i] = source[i]
        at += length


@entry
def copy_windows(stored, offsets, pitches, windows, pixel_bytes, out, starts):
    """Copy a rectangle of each image to rows without padding.

    Only the requested rows and columns are read: nothing else of a page-cached file enters the CPU's caches.

    Parameters
    ----------
    stored : uint8 (bytes,), C-contiguous, read-only
    offsets, pitches : int64 (N,)
        First byte of each image, and bytes from row to row.
    windows : int32 (N, 4)
        y, x, height, width in pixels.
    pixel_bytes : int
    out : uint8 (bytes,), C-contiguous
    starts : int64 (N,)
        Where in `out` each rectangle begins.

    Raises
    ------
    ValueError
        If a rectangle lies outside `stored`, or does not fit into `out`.
    """
    for n in range(offsets.size):
        rows, width = windows[n, 2], windows[n, 3] * pixel_bytes
        begin = offsets[n] + windows[n, 0] * pitches[n] + windows[n, 1] * pixel_bytes
        end = begin + (rows - 1) * pitches[n] + width
        if begin < 0 or end > stored.size or starts[n] < 0 or starts[n] + rows * width > out.size:
            raise ValueError("copy_windows: a rectangle does not fit")
        for y in range(rows):
            source = stored[begin + y * pitches[n] : begin + y * pitches[n] + width]
            target = out[starts[n] + y * width : starts[n] + (y + 1) * width]
            for i in range(width):
                target[i] = source[i]


@entry
def spread_windows(memory, starts, windows, cuts, pitches, pixel_bytes):
    """Move a rectangle of each image to where it is in a larger image at the same place in memory.

    Parameters
    ----------
    memory : uint8 (bytes,), C-contiguous
        Images without padding; larger ones fit into the same places.
    starts : int64 (N,)
        First byte of each image, and of the larger one.
    windows : int64 (N, 4)
        y, x, height, width of the rectangle in the larger image.
    cuts : int64 (N, 4)
        y, x, height, width of the image in the larger one.
    pitches : int64 (N,)
        Bytes from row to row of the larger image, at least those of the image.
    pixel_bytes : int

    Raises
    ------
    ValueError
        If a rectangle lies outside its image or outside `memory`; the images before it are moved.
    """
    for n in range(starts.size):
        (y, x, rows, width), (top, left, height, across) = windows[n], cuts[n]
        within = top <= y and left <= x and y + rows <= top + height and x + width <= left + across
        end = starts[n] + (y + rows - 1) * pitches[n] + (x + width) * pixel_bytes
        if not within or top < 0 or left < 0 or starts[n] < 0 or end > memory.size:
            raise ValueError("spread_windows: a rectangle does not fit")
        if pitches[n] < across * pixel_bytes:
            raise ValueError("spread_windows: the larger image is narrower")
        for row in range(y + rows - 1, y - 1, -1):  # none is overwritten before it is moved
            source = starts[n] + ((row - top) * across + x - left) * pixel_bytes
            move_bytes(memory, source, starts[n] + row * pitches[n] + x * pixel_bytes, width * pixel_bytes)

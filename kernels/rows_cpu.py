"""Loops over one row, where a CPU spends its time.

Each is a plain loop over contiguous memory, or over pixels with all channels at once, which LLVM turns into
vector instructions. They take slices instead of offsets: as far as numba knows, an index into a larger array
may be negative, and the wrap-around that it then adds keeps loops scalar.
"""

from __future__ import annotations

import numpy as np
from numpy import float32

from ffcv_gpu.kernels import lanes_cpu
from ffcv_gpu.kernels._numba import body, loop
from ffcv_gpu.kernels.pointwise import to_byte

__all__ = ["blend", "blend_bytes", "pick", "stretch", "to_bytes", "widen"]


@loop
def widen(source, line):
    """Write uint8 (n,) `source` as float32 to the front of `line`."""
    for i in range(source.size):
        line[i] = float32(source[i])


@loop
def add_row(source, weight, line):
    """Add `weight` times uint8 (n,) `source` to the front of `line`."""
    for i in range(source.size):
        line[i] += weight * float32(source[i])


@loop
def blend_bytes(source, begin, pitch, count, weights, line):
    """Write the weighted sum of several rows of an image to the front of `line`.

    Parameters
    ----------
    source : uint8, 1-D
    begin, pitch : int
        First byte of the first row, and bytes from one row to the next.
    count : int
        Number of bytes of each row.
    weights : float32 (taps,)
        One per row.
    line : float32 (>= count,)
    """
    taps = weights.size
    a = source[begin : begin + count]
    wa = weights[0]
    if taps == 1:
        for i in range(count):
            line[i] = wa * float32(a[i])
        return
    b = source[begin + pitch : begin + pitch + count]
    wb = weights[1]
    if taps == 2:
        for i in range(count):
            line[i] = wa * float32(a[i]) + wb * float32(b[i])
        return
    c = source[begin + 2 * pitch : begin + 2 * pitch + count]
    wc = weights[2]
    for i in range(count):
        line[i] = wa * float32(a[i]) + wb * float32(b[i]) + wc * float32(c[i])
    for k in range(3, taps):
        add_row(source[begin + k * pitch : begin + k * pitch + count], weights[k], line)


@loop
def stretch(line, channels, starts, weights, row):
    """Resample one row along x.

    Parameters
    ----------
    line : float32 (>= width * channels + 4,)
        Interleaved source pixels.
    channels : int
    starts : uint32 (out_w,)
        Index in `line` of each output pixel's first source value.
    weights : float32 (out_w * taps,)
    row : float32 (>= out_w * channels + 4,)
        Interleaved output pixels.
    """
    taps = weights.size // starts.size
    if channels != 3 and channels != 4:
        stretch_values(line, channels, starts, weights, taps, row)
    elif taps == 2:
        stretch_pixels(line, channels, starts, weights, 2, row)
    elif taps == 3:
        stretch_pixels(line, channels, starts, weights, 3, row)
    elif taps == 4:
        stretch_pixels(line, channels, starts, weights, 4, row)
    else:
        stretch_pixels(line, channels, starts, weights, taps, row)


@body
def stretch_pixels(line, channels, starts, weights, taps, row):
    """Resample pixels of three or four channels; with three, the next pixel overwrites the fourth lane.

    Inlined, so that two to four taps, as most crops of photos need, are unrolled.
    """
    for x in range(starts.size):
        begin = np.int64(starts[x])
        total = lanes_cpu.zero()
        for k in range(taps):
            total = lanes_cpu.madd(weights[x * taps + k], lanes_cpu.load(line, begin + k * channels), total)
        lanes_cpu.store(row, x * channels, total)


@loop
def stretch_values(line, channels, starts, weights, taps, row):
    """Resample pixels of any number of channels."""
    for x in range(starts.size):
        for c in range(channels):
            value = float32(0.0)
            for k in range(taps):
                value += weights[x * taps + k] * line[starts[x] + k * channels + c]
            row[x * channels + c] = value


@loop
def blend(a, wa, b, wb, values):
    """Write `wa * a + wb * b` as uint8 (n,)."""
    for i in range(values.size):
        values[i] = to_byte(wa * a[i] + wb * b[i])


@loop
def to_bytes(row, values):
    """Write float32 `row` as uint8 (n,)."""
    for i in range(values.size):
        values[i] = to_byte(row[i])


@loop
def pick(source, channels, starts, values):
    """Copy the pixels at `starts` of one source row to uint8 (out_w * channels,) `values`."""
    first, end = np.int64(starts[0]), starts.size - 1
    # A shift reflects the pixels at an edge, and nearest pixels of a larger crop may leave out as many.
    straight = end == 0 or (
        np.int64(starts[1]) == first + channels
        and np.int64(starts[end]) == np.int64(starts[end - 1]) + channels
    )
    if np.int64(starts[end]) - first == values.size - channels and straight:
        run = source[first : first + values.size]
        for i in range(values.size):
            values[i] = run[i]
    elif channels == 3:
        for x in range(starts.size):
            begin = np.int64(starts[x])
            values[3 * x] = source[begin]
            values[3 * x + 1] = source[begin + 1]
            values[3 * x + 2] = source[begin + 2]
    else:
        for x in range(starts.size):
            for c in range(channels):
                values[x * channels + c] = source[starts[x] + c]

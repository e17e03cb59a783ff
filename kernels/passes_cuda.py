"""CUDA kernels for the launches of `pass_codes`, and for mean grey values; plain functions for `cuda.jit`.

A block of `THREADS` threads works on one sample. In `mean_grey` and `remap` one block processes a whole
sample. In the others each thread processes one value (`blend`, `blur_*`, `pad`, `sharpen`) or one pixel
(`warp`), and a sample's blocks are consecutive in a grid of one dimension: the other dimensions allow 65535
blocks at most, which a single large image exceeds. Arrays are flat; sizes are int32.
"""

from __future__ import annotations

from numba import cuda
from numpy import float32, int32, int64

from ffcv_gpu.kernels._inlining import inline_without_copies
from ffcv_gpu.kernels._numba import body
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    COLUMN_WIDTH,
    TABLE_COLUMNS,
)
from ffcv_gpu.kernels.neighbours import blended, nearest_index, reflected, sharpened, warp_position
from ffcv_gpu.kernels.pass_codes import REMAP_NONE
from ffcv_gpu.kernels.pointwise import to_byte
from ffcv_gpu.kernels.statistics import grey_level, mean_of, remapped

__all__ = ["MAX_CHANNELS", "THREADS", "blend", "blur_columns", "blur_rows", "mean_grey", "pad", "remap"]
__all__ += ["sharpen", "warp"]

inline_without_copies("numba.cuda.core")

#: threads of a block
THREADS = 256
MAX_CHANNELS = 4
LEVELS = 256
ENTRIES = MAX_CHANNELS * LEVELS


@body
def own_place(size, block, thread):
    """Return a thread's sample and which of the sample's `size` values is its own, if there are so many."""
    blocks = (size + THREADS - 1) // THREADS
    return block // blocks, block % blocks * THREADS + thread


def mean_grey(images, params, columns, column, height, width, channels):
    """Write the mean of the grey of each image to a column of its parameters, float32 (N * columns,)."""
    sums = cuda.shared.array(THREADS, int64)
    n, t = cuda.blockIdx.x, cuda.threadIdx.x
    pixels = height * width
    base = int64(n) * int64(pixels * channels)
    total = int64(0)
    for p in range(t, pixels, THREADS):
        at = base + p * channels
        if channels >= 3:
            total += grey_level(images[at], images[at + 1], images[at + 2])
        else:
            total += int32(images[at])
    sums[t] = total
    half = int32(THREADS // 2)
    while half > 0:
        cuda.syncthreads()
        if t < half:
            sums[t] += sums[t + half]
        half //= int32(2)
    if t == 0:
        params[n * columns + column] = mean_of(sums[0], pixels)


def pad(pixels, table, out, height, width, channels):
    """Copy images of many sizes into the upper left corner of images of one size; the rest is 0.

    `pixels` is the one memory that all offsets of `table`, int64 (N * 8,), count in; interleaved images only.
    """
    count = width * channels
    n, i = own_place(height * count, cuda.blockIdx.x, cuda.threadIdx.x)
    if i < height * count:
        y, x, row = i // count, i % count, n * TABLE_COLUMNS
        inside = y < table[row + COLUMN_HEIGHT] and x < table[row + COLUMN_WIDTH] * channels
        begin = table[row + COLUMN_OFFSET0] + y * table[row + COLUMN_PITCH0]
        out[int64(n) * int64(height * count) + i] = pixels[begin + x] if inside else 0


def blur_columns(images, weights, taps, between, height, width, channels):
    """Write the weighted sum of the pixels above and below each one, float32, to `between`."""
    count = width * channels
    n, i = own_place(height * count, cuda.blockIdx.x, cuda.threadIdx.x)
    if i < height * count:
        y, x = i // count, i % count
        base = int64(n) * int64(height * count)
        total = float32(0.0)
        for k in range(taps):
            row = reflected(y + k - taps // 2, height)
            total += weights[n * taps + k] * float32(images[base + row * count + x])
        between[base + i] = total


def blur_rows(between, weights, taps, out, height, width, channels):
    """Write the weighted sum of the values left and right of each one, rounded to uint8."""
    count = width * channels
    n, i = own_place(height * count, cuda.blockIdx.x, cuda.threadIdx.x)
    if i < height * count:
        y, x, c = i // count, i % count // channels, i % channels
        base = int64(n) * int64(height * count) + y * count
        total = float32(0.0)
        for k in range(taps):
            column = reflected(x + k - taps // 2, width)
            total += weights[n * taps + k] * between[base + column * channels + c]
        out[int64(n) * int64(height * count) + i] = to_byte(total)


def sharpen(images, amounts, out, height, width, channels):
    """Add a share of the difference to the blurred image; pixels at the edge stay."""
    count = width * channels
    n, i = own_place(height * count, cuda.blockIdx.x, cuda.threadIdx.x)
    if i < height * count:
        y, x = i // count, i % count
        at = int64(n) * int64(height * count) + i
        if 0 < y < height - 1 and channels <= x < count - channels:
            ring = int32(0)
            for dy in range(-1, 2):
                line = at + dy * count
                ring += int32(images[line - channels]) + int32(images[line + channels])
                ring += int32(images[line]) if dy != 0 else int32(0)
            out[at] = sharpened(int32(images[at]), ring, amounts[n])
        else:
            out[at] = images[at]


def warp(images, matrices, fill, out, height, width, channels):
    """Rotate, shear and move images; each pixel is the nearest one of the source."""
    n, p = own_place(height * width, cuda.blockIdx.x, cuda.threadIdx.x)
    if p < height * width:
        y, x, m = p // width, p % width, n * 6
        from_x = warp_position(matrices[m], matrices[m + 1], matrices[m + 2], x, y, width, height, width)
        from_y = warp_position(matrices[m + 3], matrices[m + 4], matrices[m + 5], x, y, width, height, height)
        column, row = nearest_index(from_x), nearest_index(from_y)
        inside = 0 <= column < width and 0 <= row < height
        base = int64(n) * int64(height * width * channels)
        source = base + (row * width + column) * channels
        for c in range(channels):
            out[base + p * channels + c] = images[source + c] if inside else fill[c]


def remap(images, modes, height, width, channels):
    """Stretch the range of each channel, or equalise its histogram, in place."""
    counts = cuda.shared.array(ENTRIES, int32)
    table = cuda.shared.array(ENTRIES, int32)
    n, t = cuda.blockIdx.x, cuda.threadIdx.x
    mode = int32(modes[n])
    if mode == REMAP_NONE:  # the same for all threads of the block
        return
    size = height * width * channels
    base = int64(n) * int64(size)
    for entry in range(t, channels * LEVELS, THREADS):
        counts[entry] = 0
    cuda.syncthreads()
    for i in range(t, size, THREADS):
        cuda.atomic.add(counts, i % channels * LEVELS + int32(images[base + i]), 1)
    cuda.syncthreads()
    for entry in range(t, channels * LEVELS, THREADS):
        channel, value = entry // LEVELS * LEVELS, int32(entry % LEVELS)
        table[entry] = remapped(mode, counts, channel, int32(height * width), value)
    cuda.syncthreads()
    for i in range(t, size, THREADS):
        images[base + i] = table[i % channels * LEVELS + int32(images[base + i])]


def blend(images, chosen, keep, add, limits, height, width, channels):
    """Replace the values of chosen samples by ``keep * value + add``, in place."""
    size = height * width * channels
    n, i = own_place(size, cuda.blockIdx.x, cuda.threadIdx.x)
    if i < size and chosen[n] != float32(0.0):
        at = int64(n) * int64(size) + i
        images[at] = blended(images[at], keep[i], add[i], limits[0], limits[1])

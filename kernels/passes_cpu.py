"""The launches of `pass_codes` on a CPU: serial loops over samples [lo, hi), without the GIL.

Images are uint8 (N, H, W, C), C-contiguous. The caller is responsible for the shapes: the loops do not check
them.
"""

from __future__ import annotations

import numpy as np
from numpy import float32, int32, int64, uint8

from ffcv_gpu.kernels._numba import entry, loop
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    COLUMN_WIDTH,
    KIND_DECODED,
)
from ffcv_gpu.kernels.neighbours import blended, nearest_index, reflected, sharpened, warp_position
from ffcv_gpu.kernels.pass_codes import REMAP_EQUALIZE, REMAP_NONE
from ffcv_gpu.kernels.pointwise import to_byte
from ffcv_gpu.kernels.statistics import equalize_step, equalized, grey_level, mean_of, stretched

__all__ = ["blend", "blur", "blur_scratch", "mean_grey", "pad", "remap", "remap_scratch", "sharpen", "warp"]


@loop
def copy(source, target):
    """Copy bytes."""
    for i in range(source.size):
        target[i] = source[i]


@loop
def row_grey(row, channels):
    """Return the sum of the grey levels of one row of interleaved pixels, int64."""
    total = int64(0)
    if channels >= 3:
        for x in range(row.size // channels):
            total += grey_level(row[x * channels], row[x * channels + 1], row[x * channels + 2])
    else:
        for x in range(row.size // channels):
            total += row[x * channels]
    return total


@entry
def mean_grey(images, params, column, lo, hi):
    """Write the mean grey level of each image to a column of its parameters, float32 (N, P).

    With three or more channels, the first three are red, green and blue.
    """
    height, width, channels = images.shape[1:]
    for n in range(lo, hi):
        image, total = images[n].reshape(height, width * channels), int64(0)
        for y in range(height):
            total += row_grey(image[y], channels)
        params[n, column] = mean_of(total, height * width)


@entry
def pad(decoded, stored, table, out, lo, hi):
    """Copy images of different sizes into the upper left corner of images of one size; the rest is 0."""
    for n in range(lo, hi):
        pixels = decoded if table[n, COLUMN_KIND] == KIND_DECODED else stored
        channels = out.shape[3]
        count, rows = table[n, COLUMN_WIDTH] * channels, table[n, COLUMN_HEIGHT]
        for y in range(out.shape[1]):
            row = out[n, y].reshape(out.shape[2] * channels)
            filled = count if y < rows else 0
            begin = table[n, COLUMN_OFFSET0] + y * table[n, COLUMN_PITCH0]
            copy(pixels[begin : begin + filled], row)
            for i in range(filled, row.size):
                row[i] = uint8(0)


def blur_scratch(width: int, channels: int, taps: int) -> int:
    """Return the number of float32 of scratch memory that `blur` needs."""
    return (2 * width + taps) * channels


@loop
def column_blur(image, y, weights, line):
    """Write the weighted sum of the rows around row `y` to `line`, (W * C,)."""
    size, radius = image.shape[0], weights.size // 2
    for i in range(line.size):
        line[i] = float32(0.0)
    for k in range(weights.size):
        row = image[reflected(y + k - radius, size)].reshape(line.size)
        weight = weights[k]
        for i in range(line.size):
            line[i] += weight * float32(row[i])


@loop
def row_blur(padded, weights, channels, line, row):
    """Write the weighted sum of the pixels around each pixel of a row to `row`; `line` is scratch."""
    for i in range(line.size):
        line[i] = float32(0.0)
    for k in range(weights.size):
        moved = padded[k * channels : k * channels + line.size]
        weight = weights[k]
        for i in range(line.size):
            line[i] += weight * moved[i]
    for i in range(line.size):
        row[i] = to_byte(line[i])


@loop
def blur_sample(image, weights, out, scratch):
    """Blur one image (H, W, C)."""
    height, width, channels = image.shape
    radius, count = weights.size // 2, width * channels
    padded = scratch[: (width + 2 * radius) * channels]
    line = scratch[padded.size : padded.size + count]
    inner = padded[radius * channels : radius * channels + count]
    for y in range(height):
        column_blur(image, y, weights, inner)
        for k in range(radius):
            left, right = reflected(k - radius, width), reflected(width + k, width)
            for c in range(channels):
                padded[k * channels + c] = inner[left * channels + c]
                padded[(radius + width + k) * channels + c] = inner[right * channels + c]
        row_blur(padded, weights, channels, line, out[y].reshape(count))


@entry
def blur(images, weights, out, scratch, lo, hi):
    """Blur along both axes, reflected at the edges.

    Parameters
    ----------
    weights : float32 (N, 2 r + 1)
        They sum to 1; a sample with 1 in the middle is copied. r is smaller than H and W.
    scratch : float32 (>= blur_scratch(W, C, 2 r + 1),)
    """
    for n in range(lo, hi):
        if weights[n, weights.shape[1] // 2] == float32(1.0):
            copy(images[n].reshape(out[n].size), out[n].reshape(out[n].size))
        else:
            blur_sample(images[n], weights[n], out[n], scratch)


@loop
def sharpen_row(above, row, below, amount, channels, target):
    """Sharpen one row between two neighbours; its first and last pixel are unchanged."""
    count = row.size
    for i in range(channels):
        target[i] = row[i]
        target[count - 1 - i] = row[count - 1 - i]
    # slices: offsets into the rows would keep the loop scalar (see rows_cpu)
    inner = count - 2 * channels
    a0, a1, a2 = above[:inner], above[channels:][:inner], above[2 * channels :][:inner]
    r0, r1, r2 = row[:inner], row[channels:][:inner], row[2 * channels :][:inner]
    b0, b1, b2 = below[:inner], below[channels:][:inner], below[2 * channels :][:inner]
    inside = target[channels:][:inner]
    for i in range(inner):
        ring = int32(a0[i]) + int32(a1[i]) + int32(a2[i]) + int32(r0[i]) + int32(r2[i])
        ring += int32(b0[i]) + int32(b1[i]) + int32(b2[i])
        inside[i] = sharpened(int32(r1[i]), ring, amount)


@entry
def sharpen(images, amounts, out, lo, hi):
    """Add a share of the difference to the blurred image; edge pixels are unchanged.

    Parameters
    ----------
    amounts : float32 (N, 1)
        1 - sharpness factor; a sample with 0 is copied.
    """
    height, width, channels = images.shape[1:]
    count = width * channels
    for n in range(lo, hi):
        if amounts[n, 0] == float32(0.0) or height < 3 or width < 3:
            copy(images[n].reshape(out[n].size), out[n].reshape(out[n].size))
            continue
        image, target = images[n].reshape(height, count), out[n].reshape(height, count)
        copy(image[0], target[0])
        copy(image[height - 1], target[height - 1])
        for y in range(1, height - 1):
            sharpen_row(image[y - 1], image[y], image[y + 1], amounts[n, 0], channels, target[y])


@loop
def warp_sample(image, m, fill, out):
    """Fill one image with the source pixels that `m` points to, or with `fill` where it points outside."""
    height, width, channels = image.shape
    for y in range(height):
        for x in range(width):
            from_x = nearest_index(warp_position(m[0], m[1], m[2], x, y, width, height, width))
            from_y = nearest_index(warp_position(m[3], m[4], m[5], x, y, width, height, height))
            if 0 <= from_x < width and 0 <= from_y < height:
                for c in range(channels):
                    out[y, x, c] = image[from_y, from_x, c]
            else:
                for c in range(channels):
                    out[y, x, c] = fill[c]


@loop
def stays(m):
    """Return whether a matrix is the identity."""
    ones = m[0] == float32(1.0) and m[4] == float32(1.0)
    return ones and m[1] == 0 and m[2] == 0 and m[3] == 0 and m[5] == 0


@entry
def warp(images, matrices, fill, out, lo, hi):
    """Rotate, shear and translate images; each pixel is the nearest source pixel.

    Parameters
    ----------
    matrices : float32 (N, 6)
        As in `pass_codes`.
    fill : uint8 (C,)
    """
    for n in range(lo, hi):
        if stays(matrices[n]):
            copy(images[n].reshape(out[n].size), out[n].reshape(out[n].size))
        else:
            warp_sample(images[n], matrices[n], fill, out[n])


def remap_scratch(channels: int) -> int:
    """Return the number of float32 of scratch memory that `remap` needs for counts and tables."""
    return channels * 256 + channels * 64


@loop
def fill_table(mode, counts, pixels, table):
    """Write the new value of each value, uint8 (256,), from its channel's counts, uint32 (256,)."""
    lowest, highest = int32(0), int32(255)
    while counts[lowest] == 0:
        lowest += int32(1)
    while counts[highest] == 0:
        highest -= int32(1)
    step = equalize_step(pixels, int64(counts[highest]))
    below = int64(0)
    for v in range(256):
        if mode != REMAP_EQUALIZE:
            table[v] = stretched(min(max(int32(v), lowest), highest), lowest, highest)
        else:
            table[v] = equalized(below, step) if step > 0 else uint8(v)
        below += int64(counts[v])


@loop
def remap_sample(image, mode, counts, table):
    """Map the values of one image (H * W * C,) by channel; `counts` and `table` are scratch, (C, 256)."""
    channels = counts.shape[0]
    for c in range(channels):
        for v in range(256):
            counts[c, v] = np.uint32(0)
    for x in range(image.size // channels):
        for c in range(channels):
            counts[c, image[x * channels + c]] += np.uint32(1)
    for c in range(channels):
        fill_table(mode, counts[c], int64(image.size // channels), table[c])
    for x in range(image.size // channels):
        for c in range(channels):
            image[x * channels + c] = table[c, image[x * channels + c]]


@entry
def remap(images, modes, scratch, lo, hi):
    """Stretch the range of each channel, or equalise its histogram, in place.

    Parameters
    ----------
    modes : float32 (N, 1)
        REMAP_NONE, REMAP_STRETCH or REMAP_EQUALIZE.
    scratch : float32 (>= remap_scratch(C),)
    """
    channels = images.shape[3]
    counts = scratch[: channels * 256].view(np.uint32).reshape(channels, 256)
    table = scratch[channels * 256 : channels * 320].view(np.uint8).reshape(channels, 256)
    for n in range(lo, hi):
        mode = int32(modes[n, 0])
        if mode != REMAP_NONE:
            remap_sample(images[n].reshape(images[n].size), mode, counts, table)


@entry
def blend(images, chosen, keep, add, limits, lo, hi):
    """Replace the values of chosen samples by ``keep * value + add``, in place.

    Parameters
    ----------
    chosen : float32 (N, 1)
        0 or 1.
    keep, add : float32 (H, W, C)
    limits : float32 (2,)
        Lowest and highest result.
    """
    kept, added = keep.reshape(keep.size), add.reshape(add.size)
    for n in range(lo, hi):
        if chosen[n, 0] == float32(0.0):
            continue
        image = images[n].reshape(keep.size)
        for i in range(keep.size):
            image[i] = blended(image[i], kept[i], added[i], limits[0], limits[1])

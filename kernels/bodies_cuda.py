"""What the fused CUDA kernels share. Each thread computes one output column of a strip of rows.

It walks down the source rows. Each row is resampled along x when it is reached, then added with its weight to
the output row that it contributes to. The last two resampled rows stay in registers, so a source row shared
by two output rows (area filter) or by many (enlarging) is resampled once per strip. The triangle of
`antialias` is two output pixels wide; half of its rows are resampled twice, which costs only arithmetic and
cached loads.

Memory traffic: the threads of a warp compute neighbouring columns, so at each step they read neighbouring
pixels, whole cache sectors. A source pixel is fetched from memory once, and from the cache again where two
columns share it or two strips meet. A warp writes 32 neighbouring elements of a plane, or, when channels are
last, three interleaved runs within the same sectors. So the crops' bytes and the output each cross the bus
once, and the lower bound on time is set by memory bandwidth.

256 random-resized-crops to 224 x 224 float16 take 80 us on an H200, where copying the bytes takes 33
(e13_kernel at 8c2970d, strips of 24 rows). A warp issues 130 instructions per output pixel of each of its
threads, of which a fifth begin a strip; at 4 per cycle, the 132 multiprocessors would need 50 us at 1.98 GHz.
With fewer blocks (93 us) they issued in 56 % of the cycles, and a warp spent 58 % of its time waiting for
source pixels (e13_kernel_ncu.txt). Three channels have a path of their own, `triples_cuda`; without it, a
launch issued 384 instructions, 21 of them conversions from and to bytes by the slow unit, and took 218 us.

Arithmetic is float32 and 32-bit integers; only addresses have 64 bits. Index arithmetic is unsigned where
numba would otherwise check for negative indices. The levels of a pixel and the numbers of a place are tuples,
because tuples stay in registers.
"""

from __future__ import annotations

from numpy import float32, int32, int64, uint32, uint64

from ffcv_gpu.kernels._inlining import inline_without_copies
from ffcv_gpu.kernels._numba import body
from ffcv_gpu.kernels.chroma import chroma_span, plane_triangle, span_weights, tap_weight, triangle_line
from ffcv_gpu.kernels.codes import (
    AFFINE,
    AT_FILLS,
    AT_LUT,
    AT_OPS,
    AT_PARAMS,
    CONTRAST,
    ERASE_OUTSIDE,
    GRAYSCALE,
    HUE,
    SATURATION,
    SETTING_LATE_FROM,
    SETTING_OPS,
    SETTING_OUT_W,
    SETTING_PARAMS,
)
from ffcv_gpu.kernels.color import color_pixel
from ffcv_gpu.kernels.erase import is_erased
from ffcv_gpu.kernels.packed_cuda import float_of, level, memory_at, word_of
from ffcv_gpu.kernels.pointwise import to_byte

__all__ = [
    "LINE_WORDS",
    "MAX_THREADS",
    "NONE",
    "NO_ROW",
    "ZERO",
    "blend_rows",
    "cut",
    "finish_pixel",
    "four",
    "keep_place",
    "kept_place",
    "load_levels",
    "look_up",
    "place_of",
    "rounded",
    "rows_of",
    "store",
    "unpack",
]

inline_without_copies("numba.cuda.core")

#: maximum threads per block
MAX_THREADS = 256

ZERO = int32(0)
ONE, TWO, THREE, FOUR = uint64(1), uint64(2), uint64(3), uint64(4)
#: words of a place in shared memory: 5 are used, and 8 are loaded by two instructions
LINE_WORDS = uint64(8)
NO_ROW = int32(-1)
NONE = float32(0.0)
LOW_BITS = uint32(0xFFFF)
HIGH_SHIFT = uint32(16)


@body
def unpack(words, at):
    """Return an entry of a start table: the first pixel and the number of pixels."""
    entry = uint32(words[uint32(at)])
    return int32(entry & LOW_BITS), int32(entry >> HIGH_SHIFT)


@body
def span_place(kind, i, origin, size, out_size, shift, shown, start, taps):
    """Return (start, taps, one, two, three) of an output position on a plane: see `chroma.tap_weight`."""
    area, begin, length, unit = chroma_span(kind, i, origin, size, out_size, shift, shown)
    one, two, three = span_weights(area, begin, length, unit, start, taps)
    return start, taps, one, two, three


@body
def triangle_place(kind, i, origin, size, out_size, shift, shown, start, taps):
    """Return the same for a triangle; its weights add up to 1."""
    centre, unit, wide = plane_triangle(kind, i, origin, size, out_size, shift, shown)
    one, two = triangle_line(centre, unit, wide, start)
    total = float32(0.0)
    for k in range(taps):
        total += tap_weight(True, int32(k), taps, one, two, float32(1.0))
    return start, taps, one, two, float32(1.0) / total


@body
def place_of(antialias, kind, i, origin, size, out_size, shift, shown, start, taps):
    """Return `triangle_place` or `span_place`."""
    if antialias:
        place = triangle_place(kind, i, origin, size, out_size, shift, shown, start, taps)
    else:
        place = span_place(kind, i, origin, size, out_size, shift, shown, start, taps)
    return place


@body
def rows_of(place, factor):
    """Return a place with the end of its pixels in place of their number, and with weights times a factor."""
    return place[0], int32(place[0] + place[1]), place[2] * factor, place[3] * factor, place[4] * factor


@body
def keep_place(place, at, lines):
    """Write a place to shared memory, as entry `at`; an entry has `LINE_WORDS` int32."""
    at = uint64(at) * LINE_WORDS
    lines[at], lines[at + ONE] = place[0], place[1]
    lines[at + TWO], lines[at + THREE] = word_of(place[2]), word_of(place[3])
    lines[at + FOUR] = word_of(place[4])


@body
def kept_place(at, lines):
    """Return what `keep_place` wrote."""
    at = uint64(at) * LINE_WORDS
    one, two, three = float_of(lines[at + TWO]), float_of(lines[at + THREE]), float_of(lines[at + FOUR])
    return lines[at], lines[at + ONE], one, two, three


@body
def load_pixels(pixels, row, channels, antialias, column):
    """Return the weighted sums of a column's pixels in the row at byte `row`; 0 for missing channels."""
    start, taps, one, two, three = column
    at = uint64(row + int32(start * int32(channels)))
    a, b, c, d = float32(0.0), float32(0.0), float32(0.0), float32(0.0)
    k = ZERO
    while k < taps:
        weight = tap_weight(antialias, k, taps, one, two, three)
        a += weight * level(pixels[at])
        if channels > 1:
            b += weight * level(pixels[at + ONE])
            c += weight * level(pixels[at + TWO])
        if channels > 3:
            d += weight * level(pixels[at + THREE])
        at += uint64(channels)
        k = int32(k + 1)
    return a, b, c, d


@body
def blend_rows(pixels, begin, pitch, channels, antialias, column, line, rows, new, old):
    """Return the levels of an output pixel, then the two rows that are kept: their numbers and their levels.

    Parameters
    ----------
    begin, pitch : int64
        Offset in bytes of the plane's first pixel, or of the box's; distance in bytes between rows.
    column, line : tuple
        `place_of` along x and along y.
    rows, new, old : tuple
        Returned by the previous call.
    """
    start, taps, one, two, three = line
    new_row, old_row = rows
    n0, n1, n2, n3 = new
    o0, o1, o2, o3 = old
    v0, v1, v2, v3 = NONE, NONE, NONE, NONE
    k = ZERO
    while k < taps:
        row = int32(start + k)
        weight = tap_weight(antialias, k, taps, one, two, three)
        if row == old_row:
            v0, v1, v2, v3 = v0 + weight * o0, v1 + weight * o1, v2 + weight * o2, v3 + weight * o3
        else:
            if row != new_row:
                o0, o1, o2, o3, old_row = n0, n1, n2, n3, new_row
                n0, n1, n2, n3 = load_pixels(pixels, begin + row * pitch, channels, antialias, column)
                new_row = row
            v0, v1, v2, v3 = v0 + weight * n0, v1 + weight * n1, v2 + weight * n2, v3 + weight * n3
        k = int32(k + 1)
    return (v0, v1, v2, v3), (new_row, old_row), (n0, n1, n2, n3), (o0, o1, o2, o3)


@body
def erased(reals, at, code, y, x, width):
    """Return whether the operation with parameters from `at` on overwrites output pixel (y, x)."""
    y0, x0 = int32(reals[uint32(at)]), int32(reals[uint32(at + 1)])
    y1, x1 = int32(reals[uint32(at + 2)]), int32(reals[uint32(at + 3)])
    return is_erased(code, y, x, y0, x0, y1, x1, width)


@body
def four(words, at):
    """Return four consecutive int32."""
    return words[uint32(at)], words[uint32(at + 1)], words[uint32(at + 2)], words[uint32(at + 3)]


@body
def changed(reals, at, code, channels, levels):
    """Return the levels of a pixel after a colour operation whose parameters begin at `at`."""
    v0, v1, v2, v3 = levels
    if channels == 1:
        v1, v2 = v0, v0
    one, two, three = reals[uint32(at)], float32(0.0), float32(0.0)
    four, five, six = float32(0.0), float32(0.0), float32(0.0)
    if code == CONTRAST:
        two = reals[uint32(at + 1)]
    if code == AFFINE:
        two, three, four = reals[uint32(at + 1)], reals[uint32(at + 2)], reals[uint32(at + 3)]
        five, six = reals[uint32(at + 4)], reals[uint32(at + 5)]
    if channels > 1 or (code != SATURATION and code != HUE and code != GRAYSCALE):
        v0, v1, v2 = color_pixel(code, v0, v1, v2, one, two, three, four, five, six)
    return v0, v1, v2, v3


@body
def rounded(levels):
    """Return four levels as whole numbers in [0, 255], int32."""
    v0, v1, v2, v3 = levels
    return int32(to_byte(v0)), int32(to_byte(v1)), int32(to_byte(v2)), int32(to_byte(v3))


@body
def cut(levels):
    """Return four levels in [0, 256), truncated to int32."""
    return int32(levels[0]), int32(levels[1]), int32(levels[2]), int32(levels[3])


@body
def load_levels(words, entries, first, step, levels):
    """Copy this thread's part of the lookup table to shared memory; the caller synchronises."""
    i, lut = int32(first), words[AT_LUT]
    while i < entries:
        levels[uint64(i)] = uint32(words[uint32(lut + i)])
        i = int32(i + int32(step))


@body
def erase_early(words, reals, ops, fills, params, count, y, x, width, levels):
    """Return the levels of output pixel (y, x) after operations [0, count), all of which erase."""
    for k in range(count):
        at = params + words[uint32(ops + 2 * k + 1)]
        if erased(reals, at, words[uint32(ops + 2 * k)], y, x, width):
            levels = four(words, fills + 4 * k)
    return levels


@body
def change_early(words, reals, ops, fills, params, count, y, x, width, channels, levels):
    """Return the levels of output pixel (y, x) after operations [0, count)."""
    v0, v1, v2, v3 = levels
    values = (float32(v0), float32(v1), float32(v2), float32(v3))
    for k in range(count):
        code, at = words[uint32(ops + 2 * k)], params + words[uint32(ops + 2 * k + 1)]
        if code > ERASE_OUTSIDE:
            values = changed(reals, at, code, channels, values)
        elif erased(reals, at, code, y, x, width):
            f0, f1, f2, f3 = four(words, fills + 4 * k)
            values = (float32(f0), float32(f1), float32(f2), float32(f3))
    return cut(values)


@body
def erase_late(words, reals, ops, fills, params, first, count, y, x, width, bits):
    """Return the bits of output pixel (y, x) after operations [first, count)."""
    for k in range(first, count):
        at = params + words[uint32(ops + 2 * k + 1)]
        if erased(reals, at, words[uint32(ops + 2 * k)], y, x, width):
            f0, f1, f2, f3 = four(words, fills + 4 * k)
            bits = (uint32(f0), uint32(f1), uint32(f2), uint32(f3))
    return bits


@body
def look_up(table, channels, levels):
    """Return the table's bits for each level; 0 for missing channels."""
    first, second, third, fourth = table[uint64(levels[0])], uint32(0), uint32(0), uint32(0)
    if channels > 1:
        second, third = table[uint64(levels[1]) + uint64(256)], table[uint64(levels[2]) + uint64(512)]
    if channels > 3:
        fourth = table[uint64(levels[3]) + uint64(768)]
    return first, second, third, fourth


@body
def store(at, step, channels, bits, dtype):
    """Write a pixel: the first channel to address `at`, each following one `step` bytes further."""
    memory_at(at, dtype)[ZERO] = bits[0]
    if channels > 1:
        memory_at(int64(at + step), dtype)[ZERO] = bits[1]
        memory_at(int64(at + 2 * step), dtype)[ZERO] = bits[2]
    if channels > 3:
        memory_at(int64(at + 3 * step), dtype)[ZERO] = bits[3]


@body
def finish_pixel(words, reals, table, n, y, x, channels, coloured, value):
    """Return the bits of output pixel (y, x) of sample n, from its rounded levels: operations, then table."""
    count, late_from, width = words[SETTING_OPS], words[SETTING_LATE_FROM], words[SETTING_OUT_W]
    ops, fills, params = words[AT_OPS], words[AT_FILLS], words[AT_PARAMS] + n * words[SETTING_PARAMS]
    if coloured:
        value = change_early(words, reals, ops, fills, params, late_from, y, x, width, channels, value)
    else:
        value = erase_early(words, reals, ops, fills, params, late_from, y, x, width, value)
    bits = look_up(table, channels, value)
    return erase_late(words, reals, ops, fills, params, late_from, count, y, x, width, bits)

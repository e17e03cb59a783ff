"""Rows of RGB bytes, four pixels at a time: exact sums with integer weights.

The weights of the area filter, and those of linear interpolation, are integers divided by the length of the
output pixel's span: source and output pixels divide an axis into pieces of a whole number of units. So a row
is summed in 32-bit integers, and the weights along y include the division. Weights are below 65536, because
sides are, and sums below 2 ** 24, which float32 represents exactly.

A group of four pixels is 12 bytes, read as the three or four words that contain them, because rows may begin
at any byte. A column's last group ends with its last pixel; its first group may begin before its first pixel,
with weights of 0. So nothing is read after the word with the last byte, but up to 12 bytes before the first
one.
"""

from __future__ import annotations

from numpy import float32, int32, int64, uint32, uint64

from ffcv_gpu.kernels._numba import body
from ffcv_gpu.kernels.packed_cuda import dot_high, dot_low, memory_at, multiplied, pick, shifted

__all__ = ["blend_triples", "packed_place"]

#: bytes of four pixels
GROUP = uint64(12)

# Of 12 bytes that begin with red, these are weighted together: 0 3 1 4 and 2 5, and in the other half 6 9 7
# 10 and 8 11. Selectors of `pick`, which counts within two words.
RED_GREEN, BLUE = uint32(0x4130), uint32(0x5252)
RED_GREEN_BEHIND, BLUE_BEHIND = uint32(0x6352), uint32(0x7474)

ZERO, ONE, TWO = uint32(0), uint32(1), uint32(2)
THREE, NONE = uint64(3), float32(0.0)

# Half a level and a little more: only the weights along y are inexact, and ties are to be rounded up.
HALF = float32(0.5 + 1.0 / 8192.0)


@body
def weight_pair(k, taps, first, middle, last):
    """Return the weights of pixels k and k + 1, at most the last one, in one word; 0 before pixel 0."""
    one = last if k == taps - 1 else (first if k == 0 else (middle if k > 0 else 0))
    two = last if k + 1 == taps - 1 else (first if k + 1 == 0 else (middle if k + 1 > 0 else 0))
    return uint32(uint32(one) | uint32(two) << uint32(16))


@body
def packed_place(area, begin, length, unit, start, taps):
    """Return a column's first byte in a row, how many groups follow the first, and weights times `length`.

    The parameters are those of `chroma.span_weights`. The weights are those of the first group's two pairs,
    of a middle pair, and of the last pair.
    """
    last = int32(length) if taps == 1 else int32(begin + length - (start + taps - 1) * unit)
    first = int32((start + 1) * unit - begin) if area else int32(length - last)
    more = int32((taps - 1) // 4)
    k = int32(taps - 4 - 4 * more)
    return (
        int32(3 * (start + k)), float32(more),
        weight_pair(k, taps, first, unit, last), weight_pair(k + 2, taps, first, unit, last),
        weight_pair(1, 4, 0, unit, 0), weight_pair(2, 4, 0, unit, last),
    )  # fmt: skip


@body
def add_group(at, low, high, sums):
    """Return the sums of red, green and blue plus those of four pixels at address `at`, weighted in pairs."""
    red, green, blue = sums
    skipped = uint32(at)
    words = memory_at(int64(at & ~THREE), int32)
    first, second, third = words[ZERO], words[ONE], words[TWO]
    # Not a word that is loaded, for which the load below would wait.
    fourth = int32(0)
    if uint32(skipped & uint32(3)) != ZERO:
        fourth = words[uint32(3)]
    one = shifted(uint32(first), uint32(second), skipped)
    two = shifted(uint32(second), uint32(third), skipped)
    three = shifted(uint32(third), uint32(fourth), skipped)
    pairs = pick(one, two, RED_GREEN)
    red, green = dot_low(low, pairs, red), dot_high(low, pairs, green)
    blue = dot_low(low, pick(one, two, BLUE), blue)
    pairs = pick(two, three, RED_GREEN_BEHIND)
    red, green = dot_low(high, pairs, red), dot_high(high, pairs, green)
    return red, green, dot_low(high, pick(three, three, BLUE_BEHIND), blue)


@body
def sum_triples(at, column):
    """Return the sums of red, green and blue of a column, float32; its first group is at address `at`."""
    _, more, low, high, middle, last = column
    sums = add_group(at, low, high, (ZERO, ZERO, ZERO))
    # `more` is a float because LLVM unrolls loops that it can count, and few columns run this one.
    while more > NONE:
        at, more = at + GROUP, more - float32(1.0)
        sums = add_group(at, middle, middle if more > NONE else last, sums)
    return float32(int32(sums[0])), float32(int32(sums[1])), float32(int32(sums[2]))


@body
def add_weighted(weight, sums, levels):
    """Return three levels with the weighted sums of a row added."""
    return levels[0] + weight * sums[0], levels[1] + weight * sums[1], levels[2] + weight * sums[2]


@body
def blend_triples(begin, pitch, column, line, rows, new, old):
    """Return the levels of an output pixel plus half a level, then the rows that are kept: numbers and sums.

    The counterpart of `bodies_cuda.blend_rows`.

    Parameters
    ----------
    begin : uint64
        Address of the column's first group in row 0.
    pitch : uint32
        Bytes from row to row.
    """
    row, end, weight, middle, last = line
    new_row, old_row = rows
    value = (HALF, HALF, HALF)
    if row == new_row:
        value = add_weighted(weight, new, value)
        row = int32(row + 1)
        weight = last if int32(row + 1) == end else middle
    elif row == old_row:
        value = add_weighted(weight, old, value)
        row = int32(row + 1)
        if row == new_row and row < end:  # of two; areas of more never begin in the row before the last
            value = add_weighted(last, new, value)
            row = end
        weight = last if int32(row + 1) == end else middle
    # This loop tests at its end. Of `while row < end`, which Python 3.14 translates to one test at the head,
    # the compiler makes code that spills (see `launch_bounds`); older Pythons translate both to the same.
    if row < end:
        while True:
            old, old_row = new, new_row
            new, new_row = sum_triples(multiplied(uint32(row), pitch, begin), column), row
            value = add_weighted(weight, new, value)
            row = int32(row + 1)
            weight = last if int32(row + 1) == end else middle
            if row >= end:
                break
    return value, (new_row, old_row), new, old

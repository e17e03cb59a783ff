"""JPEGs of only those blocks that a crop needs, made of JPEGs with an index for crops.

They consist of the stored headers with another height and width, and for each row of the crop's MCUs (blocks
of all components) of the stored bytes, as they are, and a filler: an MCU of empty blocks beside them, which
sets the DC coefficients and fills up to the bit at which the bytes begin. Markers and codes: ITU-T T.81,
annexes B and F.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import entry, loop
from ffcv_gpu.kernels.copy_cpu import copy_bytes
from ffcv_gpu.kernels.jpeg_parts import (
    AC_TABLES,
    BLOCKS,
    COMPONENTS,
    DC_TABLES,
    ENDS,
    FRAME,
    HIGH,
    INDEX,
    INDEX_END,
    INDEX_HEAD,
    LEVELS,
    MARGIN,
    PARTS,
    PIECES,
    ROWS,
    SAMES,
    SCAN,
    SIDE_MARGIN,
    STEP,
    WIDE,
    WIDTH,
    add_levels,
    bit_of,
    code_of,
    note_image,
)

__all__ = ["CUT_COLUMNS", "MEMORY", "cut"]

#: columns of `cut`'s result: the number of bytes, and which pixels: y, x, height, width
CUT_LENGTH, CUT_Y, CUT_X, CUT_HEIGHT, CUT_WIDTH = 0, 1, 2, 3, 4
CUT_COLUMNS = 5
#: more than an empty block takes, or what is between stored bytes: codes of at most 16 bits, stuffed
SPARE = 64
EOI = 0xD9
ACCUMULATOR, FILLED, WRITTEN = 0, 1, 2
#: int64 numbers of `memory`
MEMORY = PARTS + 3


@loop
def put(out, state, value, count):
    """Append `count` bits, at most 32, to the entropy-coded bytes; a byte 0xFF is followed by a zero."""
    accumulator = (state[ACCUMULATOR] << count) | value
    filled, at = state[FILLED] + count, state[WRITTEN]
    while filled >= 8:
        filled -= 8
        byte = (accumulator >> filled) & 0xFF
        out[at] = byte
        at += 1
        if byte == 0xFF:
            out[at] = 0
            at += 1
    state[ACCUMULATOR], state[FILLED], state[WRITTEN] = accumulator & 0xFF, filled, at


@loop
def put_code(out, state, code):
    """Append what `code_of` returned; return the number of bits."""
    put(out, state, code >> 5, code & 31)
    return code & 31


@loop
def put_level(data, table, level, out, state):
    """Append a DC difference as near to `level` as the table has codes for; return it, and its bits."""
    size = np.int64(0)
    while abs(level) >> size:
        size += 1
    code = code_of(data, table, size)
    while code == 0 and size > 0:
        size -= 1
        code = code_of(data, table, size)
        level = (1 << size) - 1 if level > 0 else 1 - (1 << size)
    if code == 0:
        return np.int64(0), np.int64(0)
    bits = put_code(out, state, code)
    if size:
        put(out, state, level if level > 0 else level + (np.int64(1) << size) - 1, size)
    return level, bits + size


@loop
def put_fill(data, table, missing, out, state):
    """Append AC coefficients of `missing` bits more than a multiple of 8; return whether it can be done."""
    if missing == 0:
        return True
    for size in range(1, 11):
        code = code_of(data, table, np.int64(size))
        if code == 0 or ((code & 31) + size) % 2 == 0:
            continue
        for _ in range(missing * ((code & 31) + size) % 8):  # an odd number is its own inverse modulo 8
            put_code(out, state, code)
            put(out, state, (np.int64(1) << size) - 1, np.int64(size))
        return True
    return False


@loop
def put_empty(data, parts, mcus, bit, limit, out, state):
    """Append empty MCUs that change the DC coefficients by `parts[LEVELS:]`; return whether they fit.

    They end at a bit with the number `bit` in its byte (any, if it is less than 0), before byte `limit` of
    `out`.
    """
    taken, count = state[FILLED], parts[COMPONENTS]
    for mcu in range(mcus):
        for c in range(count):
            for block in range(parts[BLOCKS + c]):
                if state[WRITTEN] + SPARE > limit:
                    return False
                if parts[LEVELS + c] == 0:
                    taken += put_code(out, state, parts[SAMES + c])
                else:
                    level, bits = put_level(data, parts[DC_TABLES + c], parts[LEVELS + c], out, state)
                    parts[LEVELS + c] -= level
                    taken += bits
                    if bits == 0:
                        return False
                if bit >= 0 and mcu == mcus - 1 and c == count - 1 and block == parts[BLOCKS + c] - 1:
                    missing = (bit - taken - (parts[ENDS + c] & 31)) & 7
                    if not put_fill(data, parts[AC_TABLES + c], missing, out, state):
                        return False
                taken += put_code(out, state, parts[ENDS + c])
    return parts[LEVELS] == 0 and parts[LEVELS + 1] == 0 and parts[LEVELS + 2] == 0


@loop
def put_stored(data, first, end, limit, out, state):
    """Append stored bits, numbered as in the index, but from the front of `data`; return whether they fit."""
    begin, bit, stop, last_bit = first >> 3, first & 7, end >> 3, end & 7
    if first > end or state[WRITTEN] + (stop - begin) + SPARE > limit:
        return False
    if begin == stop:
        if last_bit > bit:
            put(out, state, (np.int64(data[begin]) & (0xFF >> bit)) >> (8 - last_bit), last_bit - bit)
        return True
    if bit:
        put(out, state, np.int64(data[begin]) & (0xFF >> bit), 8 - bit)
        begin += 2 if data[begin] == 0xFF else 1
    if begin > stop:
        return False
    copy_bytes(np.uint64(data.ctypes.data + begin), out, state[WRITTEN], stop - begin)
    state[WRITTEN] += stop - begin
    if last_bit:
        put(out, state, np.int64(data[stop]) >> (8 - last_bit), last_bit)
    return True


@loop
def put_rows(data, parts, first, last, limit, out, state):
    """Append rows [first, last), unless they begin with the image's first behind a row of empty MCUs."""
    pieces = parts[PIECES]
    if first:
        add_levels(data, parts, first * pieces, 1)
        bit = bit_of(data, parts, first * pieces) & 7
        if not put_empty(data, parts, parts[WIDTH], bit, limit, out, state):
            return False
    begin, end = bit_of(data, parts, first * pieces), bit_of(data, parts, last * pieces)
    return put_stored(data, begin, end, limit, out, state)


@loop
def put_pieces(data, parts, first, last, left, right, limit, out, state):
    """Append pieces [left, right) of rows [first, last), with a filler on the side that is not the image's.

    If the filler is on the right, a row of empty MCUs is above, unless the rows begin with the image's first.
    """
    pieces, filler = parts[PIECES], np.int64(1)
    if left == 0 and first:
        add_levels(data, parts, first * pieces, 1)
        bit = bit_of(data, parts, first * pieces) & 7
        if not put_empty(data, parts, right * parts[STEP] + filler, bit, limit, out, state):
            return False
    for row in range(first, last):
        begin, end = row * pieces + left, row * pieces + right
        if left:
            add_levels(data, parts, begin, 1)
            if not put_empty(data, parts, filler, bit_of(data, parts, begin) & 7, limit, out, state):
                return False
        if not put_stored(data, bit_of(data, parts, begin), bit_of(data, parts, end), limit, out, state):
            return False
        if row < last - 1:
            add_levels(data, parts, end, -1)
            if left == 0:
                add_levels(data, parts, (row + 1) * pieces, 1)
                bit = bit_of(data, parts, (row + 1) * pieces) & 7
                if not put_empty(data, parts, filler, bit, limit, out, state):
                    return False
        elif left == 0 and not put_empty(data, parts, filler, np.int64(-1), limit, out, state):
            return False
    return True


@loop
def begin_again(data, parts, at, to, out, state):
    """Write the headers without the index."""
    head, tail = parts[INDEX] - INDEX_HEAD - at, parts[SCAN] - parts[INDEX_END]
    copy_bytes(np.uint64(data.ctypes.data + at), out, to, head)
    copy_bytes(np.uint64(data.ctypes.data + parts[INDEX_END]), out, to + head, tail)
    state[ACCUMULATOR], state[FILLED], state[WRITTEN] = 0, 0, to + head + tail
    for c in range(3):
        parts[LEVELS + c] = 0


@loop
def cut_one(data, at, end, box, height, width, out, to, parts, state, found):
    """Write a JPEG of the blocks that a box needs to ``out[to:]``, and `found`; return its bytes, or 0."""
    if not note_image(data, at, end, height, width, parts):
        return np.int64(0)
    high, wide, limit = parts[HIGH], parts[WIDE], to + (end - at)
    first = max(box[0] - parts[MARGIN], 0) // high
    last = min((box[0] + box[2] - 1 + parts[MARGIN]) // high + 1, parts[ROWS])
    span = parts[STEP] * wide
    left = max(box[1] - parts[SIDE_MARGIN], 0) // span
    right = min((box[1] + box[3] - 1 + parts[SIDE_MARGIN]) // span + 1, parts[PIECES])
    if to + (parts[SCAN] - at) + SPARE > limit:
        return np.int64(0)
    # with a filler beside the pieces
    x = left * span - wide if left else np.int64(0)
    across = min(right * span, width) - x + (np.int64(0) if left else wide)
    done = (left > 0 or right < parts[PIECES]) and across <= width
    if done:
        begin_again(data, parts, at, to, out, state)
        done = put_pieces(data, parts, first, last, left, right, limit, out, state)
    if done:
        found[CUT_X], found[CUT_WIDTH] = x, across
    elif last - first < parts[ROWS]:
        begin_again(data, parts, at, to, out, state)
        if not put_rows(data, parts, first, last, limit, out, state):
            return np.int64(0)
        found[CUT_X], found[CUT_WIDTH] = 0, width
    else:
        return np.int64(0)
    above = first > 0 and not (done and left > 0)
    found[CUT_Y] = (first - 1) * high if above else first * high
    found[CUT_HEIGHT] = min(height, last * high) - found[CUT_Y]
    if state[FILLED]:
        put(out, state, np.int64(0xFF) >> state[FILLED], 8 - state[FILLED])
    stop = state[WRITTEN]
    out[stop], out[stop + 1] = 0xFF, EOI
    frame = to + parts[FRAME] - at
    if parts[FRAME] > parts[INDEX]:
        frame -= parts[INDEX_END] - parts[INDEX] + INDEX_HEAD
    out[frame + 1], out[frame + 2] = found[CUT_HEIGHT] >> 8, found[CUT_HEIGHT] & 0xFF
    out[frame + 3], out[frame + 4] = found[CUT_WIDTH] >> 8, found[CUT_WIDTH] & 0xFF
    return stop + 2 - to


@entry
def cut(data, offsets, lengths, boxes, heights, widths, whole, out, begins, memory, found):
    """Make JPEGs of the blocks that boxes need, where an image has an index.

    They have empty blocks beside and above these.

    Parameters
    ----------
    data : uint8 (bytes,)
    offsets, lengths, heights, widths : int64 (N,)
        Where each JPEG is in `data`, and the pixels it should have. Nothing follows its end marker.
    boxes : int64 (N, 4)
        y, x, height, width, inside the image.
    whole : bool
        Copy the images that are to be decoded whole: those of which everything is needed, and those without
        an index that can be used.
    out : uint8 (bytes,)
    begins : int64 (N,)
        Where each JPEG is written in `out`; it takes at most its own `lengths`.
    memory : int64 (MEMORY,)
        Overwritten.
    found : int64 (N, CUT_COLUMNS)
        Set to the bytes of each JPEG in `out`, and which pixels it has; 0 bytes if nothing was written.
    """
    parts, state = memory[:PARTS], memory[PARTS:]
    for n in range(offsets.size):
        at, end, to = offsets[n], offsets[n] + lengths[n], begins[n]
        size = cut_one(data, at, end, boxes[n], heights[n], widths[n], out, to, parts, state, found[n])
        found[n, CUT_LENGTH] = size
        if whole and size == 0:
            copy_bytes(np.uint64(data.ctypes.data + at), out, begins[n], lengths[n])
            found[n, CUT_LENGTH], found[n, CUT_Y], found[n, CUT_X] = lengths[n], 0, 0
            found[n, CUT_HEIGHT], found[n, CUT_WIDTH] = heights[n], widths[n]

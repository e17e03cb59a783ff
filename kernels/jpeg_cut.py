"""JPEGs of only those blocks that a crop needs, made of JPEGs with an index of their rows.

They consist of the stored headers with another height and width, and for each row of the crop's MCUs (blocks
of all components) of the stored bytes, as they are, and a filler: an MCU of empty blocks beside them, which
sets the DC coefficients and fills up to the bit at which the bytes begin. Markers and codes: ITU-T T.81,
annexes B and F.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry, loop
from ffcv_gpu.kernels.copy_cpu import copy_bytes
from ffcv_gpu.kernels.jpeg_scan import begins, u2

__all__ = ["CUT_COLUMNS", "INDEX_NAME", "MEMORY", "cut"]

#: the name and version of the index, a segment APP15; see `ffcv_gpu/format/README.md`
INDEX_NAME = b"ROWS\0\2"
#: columns of `cut`'s result: the number of bytes, and which pixels: y, x, height, width
CUT_LENGTH, CUT_Y, CUT_X, CUT_HEIGHT, CUT_WIDTH = 0, 1, 2, 3, 4
CUT_COLUMNS = 5
#: more than an empty block takes, or what is between stored bytes: codes of at most 16 bits, stuffed
SPARE = 64
LONGEST = 16
#: bytes of the index's segment before its entries: marker, length, name, and MCUs per piece
INDEX_HEAD = 4 + len(INDEX_NAME) + 2

EOI, DHT, SOS, SOF0, SOF1, APP15 = 0xD9, 0xC4, 0xDA, 0xC0, 0xC1, 0xEF
ACCUMULATOR, FILLED, WRITTEN = 0, 1, 2
# Where the parts of an image are noted: eight Huffman tables (DC tables first), then these; those from BLOCKS
# on for each of up to three components.
FRAME, HEAD, INDEX, INDEX_END, HIGH, MARGIN, WIDTH, WIDE, SIDE_MARGIN = 8, 9, 10, 11, 12, 13, 14, 15, 16
SCAN, END, ROWS, STEP, PIECES, COMPONENTS = 17, 18, 19, 20, 21, 22
BLOCKS, DC_TABLES, AC_TABLES, LEVELS, ENDS, SAMES = 24, 28, 32, 36, 40, 44
PARTS = 48
#: int64 numbers of `memory`
MEMORY = PARTS + 3


@body
def u4(data, at):
    """Return four bytes, most significant first."""
    return (u2(data, at) << 16) | u2(data, at + 2)


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
def note_tables(data, at, end, parts):
    """Note where each Huffman table of a DHT segment begins; return whether all lie within it."""
    while at + 17 <= end:
        parts[4 * (data[at] >> 4 & 1) + (data[at] & 3)] = at
        count = np.int64(0)
        for k in range(16):
            count += np.int64(data[at + 1 + k])
        at += 17 + count
    return at == end


@loop
def note_parts(data, at, end, parts):
    """Note where the parts of an image's headers begin; return where the scan does, 0 if unusual."""
    for k in range(PARTS):
        parts[k] = 0
    at += 2
    while at + 4 <= end and data[at] == 0xFF:
        marker, begin = data[at + 1], at + 4
        at += 2 + u2(data, at + 2)
        if at > end or at < begin:
            break
        if marker in (SOF0, SOF1):
            parts[FRAME] = begin
        elif marker == DHT:
            if not note_tables(data, begin, at, parts):
                break
        elif marker == APP15 and at - begin >= len(INDEX_NAME) + 2 and begins(data, begin, INDEX_NAME):
            parts[INDEX], parts[INDEX_END] = begin + len(INDEX_NAME) + 2, at
        elif marker == SOS:
            parts[HEAD] = begin
            usual = parts[FRAME] > 0 and parts[INDEX] > 0 and parts[FRAME] + 6 <= begin
            return at if usual and begin + 1 <= at else np.int64(0)
    return np.int64(0)


@loop
def note_components(data, scan, parts):
    """Note the components of the scan; return their number, 0 if they are not usual.

    Of each: blocks per MCU, where its Huffman tables begin. Also the pixels of an MCU down and across, the
    MCUs of a row, and whether chroma is interpolated between rows and between columns.
    """
    frame, head = parts[FRAME], parts[HEAD]
    count, wide, high = np.int64(data[frame + 5]), np.int64(1), np.int64(1)
    narrow, least = np.int64(4), np.int64(4)
    if count != data[head] or (count != 1 and count != 3):
        return np.int64(0)
    if frame + 6 + 3 * count > head or head + 1 + 2 * count > scan:
        return np.int64(0)
    for c in range(count):
        across, down = np.int64(data[frame + 7 + 3 * c] >> 4), np.int64(data[frame + 7 + 3 * c] & 15)
        if across == 0 or down == 0:
            return np.int64(0)
        wide, high, narrow, least = max(wide, across), max(high, down), min(narrow, across), min(least, down)
        parts[BLOCKS + c] = across * down
        tables = np.int64(data[head + 2 + 2 * c])
        parts[DC_TABLES + c], parts[AC_TABLES + c] = parts[tables >> 4 & 3], parts[4 + (tables & 3)]
        if data[head + 1 + 2 * c] != data[frame + 6 + 3 * c] or parts[DC_TABLES + c] == 0:
            return np.int64(0)
        if parts[AC_TABLES + c] == 0:
            return np.int64(0)
    if count == 1:
        wide, high, narrow, least, parts[BLOCKS] = np.int64(1), np.int64(1), np.int64(1), np.int64(1), 1
    parts[HIGH], parts[MARGIN] = 8 * high, np.int64(high != least)
    parts[WIDE], parts[SIDE_MARGIN] = 8 * wide, np.int64(wide != narrow)
    parts[WIDTH] = (u2(data, frame + 3) + 8 * wide - 1) // (8 * wide)
    return count


@loop
def code_of(data, table, symbol):
    """Return a symbol's code times 32 plus its length, 0 if the table has none."""
    code, at = np.int64(0), table + 17
    for length in range(1, LONGEST + 1):
        for _ in range(data[table + length]):
            if data[at] == symbol:
                return (code << 5) | length
            code, at = code + 1, at + 1
        code <<= 1
    return np.int64(0)


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
def bit_of(data, parts, piece):
    """Return the bit at which a piece begins, from the front of `data`; of one past the last, the end."""
    if piece == 0:
        return 8 * parts[SCAN]
    if piece >= parts[ROWS] * parts[PIECES]:
        return 8 * (parts[END] - 2)
    place = parts[INDEX] + (4 + 2 * parts[COMPONENTS]) * (piece - 1)
    return min(8 * parts[SCAN] + u4(data, place), 8 * (parts[END] - 2))


@loop
def add_levels(data, parts, piece, sign):
    """Add the DC coefficients before a piece, times `sign`, to `parts[LEVELS:]`; 0 before the first."""
    if piece == 0:
        return
    place = parts[INDEX] + (4 + 2 * parts[COMPONENTS]) * (piece - 1) + 4
    for c in range(parts[COMPONENTS]):
        level = u2(data, place + 2 * c)
        parts[LEVELS + c] += sign * (level - 65536 if level >= 32768 else level)


@loop
def note_image(data, at, end, height, width, parts):
    """Note the parts of an image, and those of its index; return whether it can be cut."""
    scan = note_parts(data, at, end, parts)
    count = note_components(data, scan, parts) if scan else np.int64(0)
    if count == 0 or u2(data, parts[FRAME] + 1) != height or u2(data, parts[FRAME] + 3) != width:
        return False
    step = u2(data, parts[INDEX] - 2)
    if step == 0 or scan > end - 2:
        return False
    parts[SCAN], parts[END], parts[COMPONENTS], parts[STEP] = scan, end, count, step
    parts[ROWS] = (height + parts[HIGH] - 1) // parts[HIGH]
    parts[PIECES] = (parts[WIDTH] + step - 1) // step
    for c in range(count):
        parts[ENDS + c] = code_of(data, parts[AC_TABLES + c], np.int64(0))
        parts[SAMES + c] = code_of(data, parts[DC_TABLES + c], np.int64(0))
        if parts[ENDS + c] == 0 or parts[SAMES + c] == 0:
            return False
    size = (4 + 2 * count) * (parts[ROWS] * parts[PIECES] - 1)
    return parts[INDEX_END] - parts[INDEX] == size


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

"""JPEGs of only those rows of blocks that a crop needs, made of JPEGs with an index of their rows.

They consist of the stored headers with another height; a row of empty MCUs (blocks of all components), which
set the DC coefficients and fill up to the bit at which the rows begin; and the stored bytes of the rows, as
they are. Markers and codes: ITU-T T.81, annexes B and F.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry, loop
from ffcv_gpu.kernels.copy_cpu import copy_bytes
from ffcv_gpu.kernels.jpeg_scan import begins, u2

__all__ = ["CUT_COLUMNS", "INDEX_NAME", "MEMORY", "cut"]

#: the name and version of the index, a segment APP15; see `ffcv_gpu/format/README.md`
INDEX_NAME = b"ROWS\0\1"
#: columns of `cut`'s result: the number of bytes, the first pixel row and the number of pixel rows
CUT_LENGTH, CUT_ROW, CUT_ROWS = 0, 1, 2
CUT_COLUMNS = 3
#: more than a block of the empty row takes: codes of at most 16 bits, stuffed
SPARE = 64
LONGEST = 16

EOI, DHT, SOS, SOF0, SOF1, APP15 = 0xD9, 0xC4, 0xDA, 0xC0, 0xC1, 0xEF
ACCUMULATOR, FILLED, WRITTEN = 0, 1, 2
# Where the parts of an image are noted: eight Huffman tables (DC tables first), then these; those from BLOCKS
# on for each of up to three components.
FRAME, HEAD, INDEX, INDEX_END, HIGH, MARGIN, WIDTH = 8, 9, 10, 11, 12, 13, 14
BLOCKS, DC_TABLES, AC_TABLES, LEVELS, ENDS, SAMES = 16, 20, 24, 28, 32, 36
PARTS = 40
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
        elif marker == APP15 and at - begin >= len(INDEX_NAME) and begins(data, begin, INDEX_NAME):
            parts[INDEX], parts[INDEX_END] = begin + len(INDEX_NAME), at
        elif marker == SOS:
            parts[HEAD] = begin
            usual = parts[FRAME] > 0 and parts[INDEX] > 0 and parts[FRAME] + 6 <= begin
            return at if usual and begin + 1 <= at else np.int64(0)
    return np.int64(0)


@loop
def note_components(data, scan, parts):
    """Note the components of the scan; return their number, 0 if they are not usual.

    Of each: blocks per MCU, where its Huffman tables begin. Also the pixel rows of a row of MCUs, the MCUs of
    a row, and whether chroma is interpolated between rows.
    """
    frame, head = parts[FRAME], parts[HEAD]
    count, wide, high, least = np.int64(data[frame + 5]), np.int64(1), np.int64(1), np.int64(4)
    if count != data[head] or (count != 1 and count != 3):
        return np.int64(0)
    if frame + 6 + 3 * count > head or head + 1 + 2 * count > scan:
        return np.int64(0)
    for c in range(count):
        across, down = np.int64(data[frame + 7 + 3 * c] >> 4), np.int64(data[frame + 7 + 3 * c] & 15)
        if across == 0 or down == 0:
            return np.int64(0)
        wide, high, least = max(wide, across), max(high, down), min(least, down)
        parts[BLOCKS + c] = across * down
        tables = np.int64(data[head + 2 + 2 * c])
        parts[DC_TABLES + c], parts[AC_TABLES + c] = parts[tables >> 4 & 3], parts[4 + (tables & 3)]
        if data[head + 1 + 2 * c] != data[frame + 6 + 3 * c] or parts[DC_TABLES + c] == 0:
            return np.int64(0)
        if parts[AC_TABLES + c] == 0:
            return np.int64(0)
    if count == 1:
        wide, high, least, parts[BLOCKS] = np.int64(1), np.int64(1), np.int64(1), 1
    parts[HIGH], parts[MARGIN] = 8 * high, np.int64(high != least)
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
def put_empty_row(data, parts, count, bit, limit, out, state):
    """Append a row of empty MCUs that ends with the DC coefficients `parts[LEVELS:]`; return whether it fits.

    It takes `bit` bits more than a multiple of 8, and ends before byte `limit` of `out`.
    """
    taken = np.int64(0)
    for c in range(count):
        parts[ENDS + c] = code_of(data, parts[AC_TABLES + c], np.int64(0))
        parts[SAMES + c] = code_of(data, parts[DC_TABLES + c], np.int64(0))
        if parts[ENDS + c] == 0 or parts[SAMES + c] == 0:
            return False
    for mcu in range(parts[WIDTH]):
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
                if mcu == parts[WIDTH] - 1 and c == count - 1 and block == parts[BLOCKS + c] - 1:
                    missing = (bit - taken - (parts[ENDS + c] & 31)) & 7
                    if not put_fill(data, parts[AC_TABLES + c], missing, out, state):
                        return False
                taken += put_code(out, state, parts[ENDS + c])
    return parts[LEVELS] == 0 and parts[LEVELS + 1] == 0 and parts[LEVELS + 2] == 0


@loop
def put_rows(data, begin, bit, stop, last_bit, out, state):
    """Append stored bytes from a bit on up to another one, which is in a later byte."""
    if bit:
        put(out, state, np.int64(data[begin]) & (0xFF >> bit), 8 - bit)
        begin += 2 if data[begin] == 0xFF else 1
    copy_bytes(np.uint64(data.ctypes.data + begin), out, state[WRITTEN], stop - begin)
    state[WRITTEN] += stop - begin
    if last_bit:
        put(out, state, np.int64(data[stop]) >> (8 - last_bit), last_bit)
        put(out, state, np.int64(0xFF) >> last_bit, 8 - last_bit)


@loop
def cut_one(data, at, end, box, height, out, to, parts, state, found):
    """Write a JPEG of the rows that a box needs to ``out[to:]``, and `found`; return its bytes, or 0."""
    scan = note_parts(data, at, end, parts)
    count = note_components(data, scan, parts) if scan else np.int64(0)
    if count == 0 or u2(data, parts[FRAME] + 1) != height:
        return np.int64(0)
    high, entry_bytes = parts[HIGH], 5 + 2 * count
    rows = (height + high - 1) // high
    first = max(box[0] - parts[MARGIN], 0) // high
    last = min((box[0] + box[2] - 1 + parts[MARGIN]) // high + 1, rows)
    if last - first >= rows or parts[INDEX_END] - parts[INDEX] != entry_bytes * (rows - 1):
        return np.int64(0)
    begin, bit, stop, last_bit = scan, np.int64(0), end - 2, np.int64(0)
    if first:
        place = parts[INDEX] + entry_bytes * (first - 1)
        begin, bit = scan + u4(data, place), np.int64(data[place + 4])
        for c in range(3):
            level = u2(data, place + 5 + 2 * c) if c < count else np.int64(0)
            parts[LEVELS + c] = level - 65536 if level >= 32768 else level
    if last < rows:
        place = parts[INDEX] + entry_bytes * (last - 1)
        stop, last_bit = scan + u4(data, place), np.int64(data[place + 4])
    # What follows the rows makes room for their last byte, stuffed, and an end marker.
    if not scan <= begin < stop - 2 or stop > end - (6 if last < rows else 2) or bit > 7 or last_bit > 7:
        return np.int64(0)
    head, limit = scan - at, to + (end - at) - (stop - begin) - SPARE
    if first and to + head + SPARE > limit:
        return np.int64(0)
    copy_bytes(np.uint64(data.ctypes.data + at), out, to, head)
    state[ACCUMULATOR], state[FILLED], state[WRITTEN] = 0, 0, to + head
    if first and not put_empty_row(data, parts, count, bit, limit, out, state):
        return np.int64(0)
    put_rows(data, begin, bit, stop, last_bit, out, state)
    end_of_rows = state[WRITTEN]
    out[end_of_rows], out[end_of_rows + 1] = 0xFF, EOI
    found[CUT_ROW] = (first - 1) * high if first else 0
    found[CUT_ROWS] = min(height, last * high) - found[CUT_ROW]
    frame = to + parts[FRAME] - at
    out[frame + 1], out[frame + 2] = found[CUT_ROWS] >> 8, found[CUT_ROWS] & 0xFF
    return end_of_rows + 2 - to


@entry
def cut(data, offsets, lengths, boxes, heights, whole, out, begins, memory, found):
    """Make JPEGs of the rows of MCUs that boxes need, where an image has an index.

    Unless the rows begin with the image's first, a row of empty blocks is above them.

    Parameters
    ----------
    data : uint8 (bytes,)
    offsets, lengths, heights : int64 (N,)
        Where each JPEG is in `data`, and the pixel rows it should have. Nothing follows its end marker.
    boxes : int64 (N, 4)
        y, x, height, width, inside the image.
    whole : bool
        Copy the images that are to be decoded whole: those of which all rows are needed, and those without an
        index that can be used.
    out : uint8 (bytes,)
    begins : int64 (N,)
        Where each JPEG is written in `out`; it takes at most its own `lengths`.
    memory : int64 (MEMORY,)
        Overwritten.
    found : int64 (N, CUT_COLUMNS)
        Set to the bytes of each JPEG in `out`, and which pixel rows it has; 0 bytes if nothing was written.
    """
    parts, state = memory[:PARTS], memory[PARTS:]
    for n in range(offsets.size):
        at, end = offsets[n], offsets[n] + lengths[n]
        size = cut_one(data, at, end, boxes[n], heights[n], out, begins[n], parts, state, found[n])
        found[n, CUT_LENGTH] = size
        if whole and size == 0:
            copy_bytes(np.uint64(data.ctypes.data + at), out, begins[n], lengths[n])
            found[n, CUT_LENGTH], found[n, CUT_ROW], found[n, CUT_ROWS] = lengths[n], 0, heights[n]

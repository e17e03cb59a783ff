"""What is where in a JPEG with an index for crops: for `jpeg_cut`.

Markers and segments: ITU-T T.81, annex B; the index: `ffcv_gpu/format/README.md`.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, loop
from ffcv_gpu.kernels.jpeg_scan import begins, u2

__all__ = ["INDEX_HEAD", "INDEX_NAME", "PARTS", "add_levels", "bit_of", "code_of", "note_image"]

#: the name and version of the index, a segment APP15; see `ffcv_gpu/format/README.md`
INDEX_NAME = b"CROP\0\1"
#: bytes of the index's segment before its entries: marker, length, name, and MCUs per piece
INDEX_HEAD = 4 + len(INDEX_NAME) + 2
LONGEST = 16
#: bytes of the checksum behind the entries, which may be missing
SUM_BYTES = 4

DHT, SOS, SOF0, SOF1, APP15 = 0xC4, 0xDA, 0xC0, 0xC1, 0xEF
# Where the parts of an image are noted: eight Huffman tables (DC tables first), then these; those from BLOCKS
# on for each of up to three components.
FRAME, HEAD, INDEX, INDEX_END, HIGH, MARGIN, WIDTH, WIDE, SIDE_MARGIN = 8, 9, 10, 11, 12, 13, 14, 15, 16
SCAN, END, ROWS, STEP, PIECES, COMPONENTS = 17, 18, 19, 20, 21, 22
BLOCKS, DC_TABLES, AC_TABLES, LEVELS, ENDS, SAMES = 24, 28, 32, 36, 40, 44
#: numbers that are noted
PARTS = 48


@body
def u4(data, at):
    """Return four bytes, most significant first."""
    return (u2(data, at) << 16) | u2(data, at + 2)


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
    behind = parts[INDEX_END] - parts[INDEX] - size
    return behind in (0, SUM_BYTES)


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

"""Rows of blocks in JPEGs: restart markers between them, and JPEGs of the rows that a crop needs.

Where a restart marker begins each row of MCUs (blocks of all components), rows can be decoded without those
above. `insert` adds the markers to a baseline scan: only the first DC difference of each component in a row
changes, because prediction starts anew; all other bits are copied, so the coefficients stay what they were.
`cut` makes a JPEG of some rows out of the stored one. Markers and codes: ITU-T T.81, annexes B and F.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry, loop

__all__ = [
    "COMPONENT_COLUMNS", "CUT_COLUMNS", "CUT_LENGTH", "CUT_ROW", "CUT_ROWS", "INDEX_NAME", "cut",
    "insert", "memory_of",
]  # fmt: skip

#: the name and version of our segment (APP15); then the offsets of each row but the first, and of the scan's
#: end, 4 bytes each, counted from the first entropy-coded byte
INDEX_NAME = b"ROWS\0\1"
#: columns of a component: blocks per MCU along x and y, numbers of its DC and AC tables
COMPONENT_COLUMNS = 4
#: columns of `cut`'s result: the number of bytes, the first pixel row and the number of pixel rows
CUT_LENGTH, CUT_ROW, CUT_ROWS = 0, 1, 2
CUT_COLUMNS = 3

EOI, SOS, SOF0, SOF1, APP15, RST0 = 0xD9, 0xDA, 0xC0, 0xC1, 0xEF, 0xD0
#: bits looked up at once; longer codes are found by their length
FAST = 9
LONGEST = 16
FAILED = np.int64(-1)
ACCUMULATOR, FILLED, WRITTEN = 0, 1, 2


@loop
def fill_codes(counts, values, codes):
    """Set code and length of each symbol, length 0 if it has none; return whether the codes are valid."""
    for table in range(counts.shape[0]):
        for symbol in range(256):
            codes[table, symbol, 1] = 0
        code, at = np.int64(0), np.int64(0)
        for length in range(1, LONGEST + 1):
            count = np.int64(counts[table, length - 1])
            if at + count > 256 or code + count > np.int64(1) << length:
                return False
            for k in range(count):
                codes[table, values[table, at + k], 0] = code + k
                codes[table, values[table, at + k], 1] = length
            code, at = (code + count) << 1, at + count
    return True


@loop
def fill_tables(counts, values, fast, limits, shifts):
    """Set the tables that codes are decoded with; see `memory_of`. The codes must be valid."""
    for table in range(counts.shape[0]):
        code, at = np.int64(0), np.int64(0)
        for length in range(1, LONGEST + 1):
            shifts[table, length] = at - code
            count = np.int64(counts[table, length - 1])
            if length <= FAST:
                spread = np.int64(1) << (FAST - length)
                for place in range(count * spread):
                    symbol = values[table, at + place // spread]
                    fast[table, code * spread + place] = (length << 8) | symbol
            code, at = code + count, at + count
            limits[table, length] = code << (LONGEST - length)
            code <<= 1


@body
def sixteen_bits(plain, bit):
    """Return 16 bits of bytes from a bit on."""
    at = bit >> 3
    word = (np.int64(plain[at]) << 16) | (np.int64(plain[at + 1]) << 8) | np.int64(plain[at + 2])
    return (word >> (8 - (bit & 7))) & 0xFFFF


@loop
def symbol_at(plain, bit, table, tables):
    """Return the code's length times 256 plus its symbol; `FAILED` if there is no such code."""
    values, fast, limits, shifts, _ = tables
    bits = sixteen_bits(plain, bit)
    found = np.int64(fast[table, bits >> (LONGEST - FAST)])
    if found:
        return found
    for length in range(FAST + 1, LONGEST + 1):
        if bits < limits[table, length]:
            place = (bits >> (LONGEST - length)) + shifts[table, length]
            return (np.int64(length) << 8) | np.int64(values[table, place])
    return FAILED


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
def copy_bits(plain, begin, end, out, state):
    """Append bits [begin, end) of `plain`."""
    while end - begin >= 16:
        put(out, state, sixteen_bits(plain, begin), np.int64(16))
        begin += 16
    if end > begin:
        put(out, state, sixteen_bits(plain, begin) >> (16 - (end - begin)), end - begin)


@loop
def unstuffed(data, plain):
    """Copy entropy-coded bytes without the zeros after 0xFF; return how many, `FAILED` at a marker."""
    count, at = np.int64(0), np.int64(0)
    while at < data.size:
        plain[count] = data[at]
        count += 1
        if data[at] == 0xFF:
            if at + 1 >= data.size or data[at + 1] != 0:
                return FAILED
            at += 1
        at += 1
    return count


@loop
def difference(plain, bit, size):
    """Return the DC difference that `size` bits encode."""
    if size == 0:
        return np.int64(0)
    value = sixteen_bits(plain, bit) >> (16 - size)
    return value if value >> (size - 1) else value - (np.int64(1) << size) + 1


@loop
def put_dc(value, codes, table, out, state):
    """Append the code of a DC difference; return whether the table has one."""
    size, rest = np.int64(0), abs(value)
    while rest:
        size, rest = size + 1, rest >> 1
    if codes[table, size, 1] == 0:
        return False
    put(out, state, codes[table, size, 0], codes[table, size, 1])
    if size:
        put(out, state, value if value > 0 else value + (np.int64(1) << size) - 1, size)
    return True


@loop
def after_ac(plain, bits, bit, table, tables):
    """Return the first bit after a block's AC coefficients, `FAILED` if they are not valid."""
    k = 1
    while k < 64:
        found = symbol_at(plain, bit, table, tables)
        if found < 0:
            return FAILED
        run, size = (found >> 4) & 15, found & 15
        bit += (found >> 8) + size
        if bit > bits:
            return FAILED
        if size == 0:
            if run != 15:
                break
            k += 16
        else:
            k += run + 1
    return bit if k <= 64 else FAILED


@loop
def take_row(plain, bits, bit, width, components, levels, tables, recoded, out, state):
    """Append a row of MCUs, predicted anew; return the first bit after it, `FAILED` if it is not valid.

    `levels` are the components' DC coefficients before the row, and after it. `recoded`: the DC codes to
    write are not those that are read.
    """
    copied = bit
    for mcu in range(width):
        for c in range(components.shape[0]):
            for block in range(components[c, 0] * components[c, 1]):
                found = symbol_at(plain, bit, components[c, 2], tables)
                size = found & 255
                if found < 0 or size > 15:
                    return FAILED
                after = bit + (found >> 8)
                change, begins = difference(plain, after, size), mcu == 0 and block == 0
                levels[c] += change
                after += size
                if begins or recoded:
                    copy_bits(plain, copied, bit, out, state)
                    if not put_dc(levels[c] if begins else change, tables[4], components[c, 2], out, state):
                        return FAILED
                    copied = after
                bit = after_ac(plain, bits, after, components[c, 3], tables)
                if bit < 0:
                    return FAILED
    copy_bits(plain, copied, bit, out, state)
    return bit


@entry
def insert(data, rows, width, components, counts, values, dc_counts, dc_values, memory, plain, out, starts):
    """Write a baseline scan with a restart marker between rows of MCUs.

    Parameters
    ----------
    data : uint8 (bytes,)
        The entropy-coded bytes, without markers.
    rows, width : int
        Rows of MCUs, and MCUs per row.
    components : int64 (components, COMPONENT_COLUMNS)
        Blocks per MCU along x and y, and the numbers of the DC and the AC table.
    counts : uint8 (tables, 16)
        Huffman codes of each length.
    values : uint8 (tables, 256)
        Symbols in the order of their codes.
    dc_counts, dc_values : uint8 (dc_tables, 16), (dc_tables, 256)
        The DC tables to write with, if not those of `counts`; none: these.
    memory : tuple of arrays
        From `memory_of`; overwritten.
    plain : uint8 (bytes + 8,)
        Overwritten with the bytes without stuffing.
    out : uint8 (2 * bytes + 64 * rows,)
        Where the new scan is written.
    starts : int64 (rows + 1,)
        Set to the first byte of each row in `out`, and to the end.

    Returns
    -------
    int
        Bytes written; -1 if the scan is not valid, or a table lacks a code that a row needs.
    """
    fast, limits, shifts, codes, levels, state = memory
    size, recoded = unstuffed(data, plain), dc_counts.shape[0] > 0
    if size < 0 or not fill_codes(counts, values, codes) or not fill_codes(dc_counts, dc_values, codes):
        return FAILED
    fill_tables(counts, values, fast, limits, shifts)
    for k in range(8):
        plain[size + k] = 0xFF
    tables, bit = (values, fast, limits, shifts, codes), np.int64(0)
    for row in range(rows):
        starts[row] = state[WRITTEN]
        bit = take_row(plain, 8 * size, bit, width, components, levels, tables, recoded, out, state)
        if bit < 0:
            return FAILED
        if state[FILLED]:
            count = 8 - state[FILLED]
            put(out, state, (np.int64(1) << count) - 1, count)
        if row < rows - 1:
            out[state[WRITTEN]], out[state[WRITTEN] + 1] = 0xFF, RST0 + row % 8
            state[WRITTEN] += 2
    if 8 * size - bit >= 8:
        return FAILED
    starts[rows] = state[WRITTEN]
    return state[WRITTEN]


def memory_of(tables, components):
    """Return what `insert` needs besides: fast, limits, shifts, codes, levels, state.

    For the next 9 bits, a code's length times 256 plus its symbol (0: a longer code). By length: the first
    code, as 16 bits, that is too large for it; and the place of its first symbol less its first code. For
    each symbol: code and length, 0 if it has none. The components' DC coefficients. The writer's state.
    """
    return (
        np.zeros((tables, 1 << FAST), np.int32), np.zeros((tables, LONGEST + 1), np.int64),
        np.zeros((tables, LONGEST + 1), np.int64), np.zeros((tables, 256, 2), np.int64),
        np.zeros(components, np.int64), np.zeros(3, np.int64),
    )  # fmt: skip


@body
def u2(data, at):
    """Return two bytes, most significant first."""
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@body
def u4(data, at):
    """Return four bytes, most significant first."""
    return (u2(data, at) << 16) | u2(data, at + 2)


@loop
def copy_bytes(data, begin, count, out, to):
    """Copy `count` bytes; numba's slices might allocate."""
    for k in range(count):
        out[to + k] = data[begin + k]


@loop
def is_index(data, at, end):
    """Return whether the segment whose contents are [at, end) is ours."""
    if end - at < len(INDEX_NAME):
        return False
    for k in range(len(INDEX_NAME)):  # noqa: SIM110 (numba compiles no generator)
        if data[at + k] != INDEX_NAME[k]:
            return False
    return True


@loop
def parts_of(data, at, end):
    """Return where frame header, index, index's end and scan begin in an image's bytes; zeros if unknown."""
    frame, index, index_end = np.int64(0), np.int64(0), np.int64(0)
    at += 2
    while at + 4 <= end and data[at] == 0xFF:
        marker, begin = data[at + 1], at + 4
        at += 2 + u2(data, at + 2)
        if at > end:
            break
        if marker in (SOF0, SOF1):
            frame = begin
        elif marker == APP15 and is_index(data, begin, at):
            index, index_end = begin + len(INDEX_NAME), at
        elif marker == SOS:
            return frame, index, index_end, at
    return np.int64(0), np.int64(0), np.int64(0), np.int64(0)


@loop
def row_height(data, frame):
    """Return the pixels of a row of MCUs, and whether chroma is interpolated between rows."""
    count, most, least = data[frame + 5], np.int64(1), np.int64(4)
    for c in range(count):
        factor = np.int64(data[frame + 7 + 3 * c] & 15)
        most, least = max(most, factor), min(least, factor)
    if count == 1:
        return np.int64(8), False
    return 8 * most, most != least


@loop
def are_rows(data, scan, index, first, last, end):
    """Return whether rows [first, last) of MCUs begin where the index says, before `end`."""
    before = scan
    for row in range(max(first, 1), last):
        at = scan + u4(data, index + 4 * (row - 1))
        if not before + 1 < at < end or data[at - 2] != 0xFF or data[at - 1] != RST0 + (row - 1) % 8:
            return False
        before = at
    return True


@loop
def cut_one(data, at, end, box, height, out, to, found):
    """Write a JPEG of the rows that a box needs to ``out[to:]``, and `found`; return its bytes, or 0."""
    frame, index, index_end, scan = parts_of(data, at, end)
    if frame == 0 or index == 0 or frame + 6 > scan or frame + 6 + 3 * np.int64(data[frame + 5]) > scan:
        return np.int64(0)
    high, blurred = row_height(data, frame)
    if high < 8 or u2(data, frame + 1) != height:
        return np.int64(0)
    rows, margin = (height + high - 1) // high, np.int64(blurred)
    first = max(box[0] - margin, 0) // high
    last = min((box[0] + box[2] - 1 + margin) // high + 1, rows)
    if last - first >= rows or index_end - index != 4 * rows:
        return np.int64(0)
    begin = scan + (u4(data, index + 4 * (first - 1)) if first else np.int64(0))
    stop = scan + u4(data, index + 4 * (last - 1)) - (2 if last < rows else 0)
    if not scan <= begin < stop <= end - 2 or not are_rows(data, scan, index, first, last, stop):
        return np.int64(0)
    if last < rows and (data[stop] != 0xFF or data[stop + 1] != RST0 + (last - 1) % 8):
        return np.int64(0)
    head, body_bytes = scan - at, stop - begin
    copy_bytes(data, at, head, out, to)
    copy_bytes(data, begin, body_bytes, out, to + head)
    found[CUT_ROW], found[CUT_ROWS] = first * high, min(height, last * high) - first * high
    out[to + frame - at + 1], out[to + frame - at + 2] = found[CUT_ROWS] >> 8, found[CUT_ROWS] & 0xFF
    for row in range(first + 1, last):
        place = scan + u4(data, index + 4 * (row - 1)) - begin
        out[to + head + place - 1] = RST0 + (row - first - 1) % 8
    after = to + head + body_bytes
    out[after], out[after + 1] = 0xFF, EOI
    return head + body_bytes + 2


@entry
def cut(data, offsets, lengths, boxes, heights, whole, out, begins, found):
    """Make JPEGs of the rows of MCUs that boxes need, where an image has an index.

    Parameters
    ----------
    data : uint8 (bytes,)
    offsets, lengths, heights : int64 (N,)
        Where each JPEG is in `data`, and the pixel rows it should have.
    boxes : int64 (N, 4)
        y, x, height, width, inside the image.
    whole : bool
        Copy the images that are to be decoded whole: those of which all rows are needed, and those without an
        index that their bytes agree with.
    out : uint8 (bytes,)
    begins : int64 (N,)
        Where each JPEG is written in `out`; it takes at most its own `lengths`.
    found : int64 (N, CUT_COLUMNS)
        Set to the bytes of each JPEG in `out`, and which pixel rows it has; 0 bytes if nothing was written.
    """
    for n in range(offsets.size):
        at, size = offsets[n], lengths[n]
        found[n, CUT_LENGTH] = cut_one(data, at, at + size, boxes[n], heights[n], out, begins[n], found[n])
        if whole and found[n, CUT_LENGTH] == 0:
            copy_bytes(data, at, size, out, begins[n])
            found[n, CUT_LENGTH], found[n, CUT_ROW], found[n, CUT_ROWS] = size, 0, heights[n]

"""Where the rows of blocks in baseline JPEGs begin, and pieces of these rows.

MCUs (blocks of all components) can be decoded by themselves if it is known at which bit they begin, and the
DC coefficients before them, from which their own are predicted. To find that, a scan is read, but nothing is
computed of it. Codes: ITU-T T.81, annex F.

Restart markers would serve too, but libjpeg-turbo reads files with them by a slower path: whole images then
take 10 % longer.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry, loop

__all__ = ["COMPONENT_COLUMNS", "ENTRY_COLUMNS", "find", "memory_of"]

#: columns of a component: blocks per MCU, and the numbers of its DC and AC table
COMPONENT_COLUMNS = 3
#: columns of an entry: the bit at which a piece begins, DC coefficients of up to three components
ENTRY_COLUMNS = 4
#: bits looked up at once; longer codes are found by their length
FAST = 12
LONGEST = 16
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)
FAILED = np.int64(-1)


@loop
def fill_codes(counts, values, fast, limits, shifts):
    """Set the tables that codes are decoded with, see `memory_of`; return whether the codes are valid."""
    for table in range(counts.shape[0]):
        code, at = np.int64(0), np.int64(0)
        for length in range(1, LONGEST + 1):
            shifts[table, length] = at - code
            count = np.int64(counts[table, length - 1])
            if at + count > 256 or code + count > np.int64(1) << length:
                return False
            if length <= FAST:
                spread = np.int64(1) << (FAST - length)
                for place in range(count * spread):
                    symbol = values[table, at + place // spread]
                    fast[table, code * spread + place] = (length << 8) | symbol
            code, at = code + count, at + count
            limits[table, length] = code << (LONGEST - length)
            code <<= 1
    return True


@loop
def fill_skips(components, fast, skips):
    """Set what is skipped for each 12 bits of AC coefficients, see `memory_of`."""
    for c in range(components.shape[0]):
        table = components[c, 2]
        if c > 0 and table == components[c - 1, 2]:
            continue
        for bits in range(1 << FAST):
            taken, advance, ended = np.int64(0), np.int64(0), np.int64(0)
            while taken < FAST and not ended:
                found = np.int64(fast[table, (bits << taken) & ((1 << FAST) - 1)])
                length, run, size = found >> 8, (found >> 4) & 15, found & 15
                if found == 0 or taken + length > FAST:
                    break
                if size == 0 and run != 15:
                    ended = np.int64(1)
                else:
                    advance += run + 1
                taken += length + size
            skips[table, bits] = (taken << 9) | (advance << 1) | ended


@body
def sixteen_bits(plain, bit):
    """Return 16 bits of bytes from a bit on."""
    at = np.uint64(bit >> 3)  # an unsigned index cannot be counted from the end, which numba would check
    word = (np.uint32(plain[at]) << np.uint32(24)) | (np.uint32(plain[at + ONE]) << np.uint32(16))
    word |= (np.uint32(plain[at + TWO]) << np.uint32(8)) | np.uint32(plain[at + THREE])  # one load
    return (np.int64(word) >> (16 - (bit & 7))) & 0xFFFF


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
def after_ac(plain, bits, bit, table, tables):
    """Return the first bit after a block's AC coefficients, `FAILED` if they are not valid."""
    skips, k = tables[4][table], 1
    while k < 64:
        skip = np.int64(skips[np.uint64(sixteen_bits(plain, bit) >> (LONGEST - FAST))])
        taken, advance = skip >> 9, (skip >> 1) & 255
        if taken and k + advance < 64 and bit + taken <= bits:
            bit, k = bit + taken, k + advance
            if skip & 1:
                return bit
            continue
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
def take_mcus(plain, bits, bit, count, components, levels, tables):
    """Return the first bit after some MCUs, `FAILED` if they are not valid; updates the DC coefficients."""
    for _ in range(count):
        for c in range(components.shape[0]):
            for _ in range(components[c, 0]):
                found = symbol_at(plain, bit, components[c, 1], tables)
                size = found & 255
                if found < 0 or size > 15:
                    return FAILED
                bit += found >> 8
                levels[c] += difference(plain, bit, size)
                bit = after_ac(plain, bits, bit + size, components[c, 2], tables)
                if bit < 0:
                    return FAILED
    return bit


@entry
def find(data, rows, width, step, components, counts, values, memory, plain, entries):
    """Find where the pieces of a baseline scan begin: in each row, one at every `step`-th MCU.

    Parameters
    ----------
    data : uint8 (bytes,)
        The entropy-coded bytes, without markers.
    rows, width, step : int
        Rows of MCUs, MCUs per row, and MCUs per piece.
    components : int64 (components, COMPONENT_COLUMNS)
        Of the scan, at most 3.
    counts : uint8 (tables, 16)
        Huffman codes of each length.
    values : uint8 (tables, 256)
        Symbols in the order of their codes.
    memory : tuple of arrays
        From `memory_of`; overwritten.
    plain : uint8 (bytes + 8,)
        Overwritten with the bytes without stuffing.
    entries : int64 (pieces, ENTRY_COLUMNS)
        Set to where each piece begins, row after row; a bit's number is 8 times that of its byte in `data`,
        plus 0 to 7 from the highest.

    Returns
    -------
    bool
        False if the scan is not valid.
    """
    fast, limits, shifts, skips, levels = memory
    size = unstuffed(data, plain)
    if size < 0 or not fill_codes(counts, values, fast, limits, shifts):
        return False
    fill_skips(components, fast, skips)
    for k in range(8):
        plain[size + k] = 0xFF
    tables, bit = (values, fast, limits, shifts, skips), np.int64(0)
    at, passed, n = np.int64(0), np.int64(0), 0
    for _ in range(rows):
        for first in range(0, width, step):
            while passed < bit >> 3:  # the byte in `data` that byte `passed` of `plain` comes from
                at += 2 if data[at] == 0xFF else 1
                passed += 1
            entries[n, 0] = 8 * at + (bit & 7)
            for c in range(components.shape[0]):
                entries[n, 1 + c] = levels[c]
            n += 1
            count = min(step, width - first)
            bit = take_mcus(plain, 8 * size, bit, count, components, levels, tables)
            if bit < 0:
                return False
    return 8 * size - bit < 8


def memory_of(tables):
    """Return what `find` needs besides: fast, limits, shifts, skips, levels.

    For the next 12 bits, a code's length times 256 plus its symbol (0: a longer code). By length: the first
    code, as 16 bits, that is too large for it; and the place of its first symbol less its first code. For the
    next 12 bits of AC coefficients, all that they begin: the bits to skip, times 512; the coefficients,
    times 2; and whether the block ends. The components' DC coefficients.
    """
    limits, shifts = (np.zeros((tables, LONGEST + 1), np.int64) for _ in range(2))
    fast, skips = (np.zeros((tables, 1 << FAST), np.uint16) for _ in range(2))
    return fast, limits, shifts, skips, np.zeros(3, np.int64)

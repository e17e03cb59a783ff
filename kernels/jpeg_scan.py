"""Reads the headers of many JPEGs in one memory, as `ffcv_gpu.jpeg.facts.scan_jpeg` does for one.

The two are separate implementations and must agree on every input, down to the byte that an error names.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry, loop

__all__ = [
    "COLUMNS", "COMPONENTS", "ENCODING", "END_OFFSET", "EXIF_ORIENTATION", "FLAGS", "HEIGHT", "PRECISION",
    "SCAN_OFFSET", "SUBSAMPLING", "WIDTH", "WRONG_AT", "scan",
]  # fmt: skip

# Columns of a row, int64: the attributes of `ffcv_gpu.jpeg.facts.JpegHeader`.
HEIGHT, WIDTH, PRECISION, SUBSAMPLING, ENCODING, COMPONENTS, EXIF_ORIENTATION = 0, 1, 2, 3, 4, 5, 6
FLAGS, SCAN_OFFSET, END_OFFSET = 7, 8, 9
# The byte at which the headers are wrong, counted from the image's first; -1 if they are valid.
WRONG_AT = 10
# Used only while the row is filled.
SCAN_COMPONENTS, HAS_JFIF, ADOBE, NAMED_RGB = 11, 12, 13, 14
COLUMNS = 15

GOOD = -1
SOI, SOS, EOI, DQT, DRI, APP0, APP1, APP14 = 0xD8, 0xDA, 0xD9, 0xDB, 0xDD, 0xE0, 0xE1, 0xEE
# The numbers of JpegFlag and nvJPEG, repeated here because this layer imports no other; tests compare them.
RESTART, MULTI_SCAN, RGB_CODED, CMYK, TABLES_16BIT = 1, 2, 4, 8, 16
CSS_444, CSS_422, CSS_420, CSS_440, CSS_411, CSS_410, CSS_GREY, CSS_UNKNOWN = 0, 1, 2, 3, 4, 5, 6, -1
ORIENTATION_TAG, SHORT = 0x0112, 3
EXIF_NAME, ADOBE_NAME, JFIF_NAME = b"Exif\0\0", b"Adobe", b"JFIF\0"
LITTLE_ENDIAN, BIG_ENDIAN = b"II*\0", b"MM\0*"


# One signed type throughout: numba promotes uint64 + int64 to float64.
@body
def u1(data, at):
    """Return a byte."""
    return np.int64(data[at])


@body
def u2(data, at):
    """Return two bytes, most significant first."""
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@loop
def tiff_number(data, at, size, little):
    """Return an unsigned number of `size` bytes."""
    value = np.int64(0)
    for k in range(size):
        value = (value << 8) | u1(data, at + (size - 1 - k if little else k))
    return value


@loop
def begins(data, at, text):
    """Return whether the bytes at `at` start with `text`."""
    if at + len(text) > data.size:
        return False
    for k in range(len(text)):  # noqa: SIM110 (numba compiles no generator)
        if data[at + k] != text[k]:
            return False
    return True


@loop
def orientation_of(tiff):
    """Return the orientation, 1 to 8, from a TIFF block, 0 if it has none."""
    little = begins(tiff, 0, LITTLE_ENDIAN)
    if tiff.size < 8 or not (little or begins(tiff, 0, BIG_ENDIAN)):
        return np.int64(0)
    directory = tiff_number(tiff, 4, 4, little)
    if directory + 2 > tiff.size:
        return np.int64(0)
    first = directory + 2
    last = min(first + 12 * tiff_number(tiff, directory, 2, little), np.int64(tiff.size) - 11)
    for at in range(first, last, 12):
        if tiff_number(tiff, at, 2, little) == ORIENTATION_TAG:
            value = tiff_number(tiff, at + 8, 2, little)
            known = tiff_number(tiff, at + 2, 2, little) == SHORT and 1 <= value <= 8
            return value if known else np.int64(0)
    return np.int64(0)


@loop
def subsampling_of(data, at, components):
    """Return nvJPEG's chroma subsampling from a frame's component table that begins at `at`."""
    if components == 1:
        return CSS_GREY
    luma, chroma = u1(data, at + 1), u1(data, at + 4)
    if components == 2 or u1(data, at + 7) != chroma:
        return CSS_UNKNOWN
    wide, high = (luma >> 4) // (chroma >> 4), (luma & 15) // (chroma & 15)
    if wide * (chroma >> 4) != luma >> 4 or high * (chroma & 15) != luma & 15:
        return CSS_UNKNOWN
    if high == 1:
        return CSS_444 if wide == 1 else CSS_422 if wide == 2 else CSS_411 if wide == 4 else CSS_UNKNOWN
    if high == 2:
        return CSS_440 if wide == 1 else CSS_420 if wide == 2 else CSS_410 if wide == 4 else CSS_UNKNOWN
    return CSS_UNKNOWN


@loop
def take_frame(marker, data, at, end, row):
    """Record the frame header's contents; return GOOD or the byte at which it is wrong."""
    if row[COMPONENTS] or end - at < 6 or end - at < 6 + 3 * u1(data, at + 5):
        return at
    components = u1(data, at + 5)
    row[ENCODING], row[PRECISION], row[COMPONENTS] = marker, u1(data, at), components
    row[HEIGHT], row[WIDTH] = u2(data, at + 1), u2(data, at + 3)
    if components == 0 or row[HEIGHT] == 0 or row[WIDTH] == 0:
        return at
    table = at + 6
    for k in range(components):
        factors = u1(data, table + 3 * k + 1)
        if factors >> 4 == 0 or factors & 15 == 0:
            return at
    row[SUBSAMPLING] = subsampling_of(data, table, components)
    if components == 3:
        names = u1(data, table), u1(data, table + 3), u1(data, table + 6)
        row[NAMED_RGB] = names == (ord("R"), ord("G"), ord("B"))
    return np.int64(GOOD)


@loop
def has_wide_tables(data, at, end):
    """Return whether a quantisation segment holds a table of 16-bit numbers."""
    found = False
    while at < end:
        wide = u1(data, at) >> 4 != 0
        found |= wide
        at += 129 if wide else 65
    return found


@loop
def take(marker, data, at, end, row):
    """Record a segment's contents; return GOOD or the byte at which it is wrong."""
    if 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
        return take_frame(marker, data, at, end, row)
    if marker == SOS:
        row[SCAN_COMPONENTS] = u1(data, at) if at < end else 0
    elif marker == DQT:
        if has_wide_tables(data, at, end):
            row[FLAGS] |= TABLES_16BIT
    elif marker == DRI:
        for k in range(at, end):
            if data[k] != 0:
                row[FLAGS] |= RESTART
    elif marker == APP1:
        if begins(data, at, EXIF_NAME):
            said = orientation_of(data[at + 6 : end])
            row[EXIF_ORIENTATION] = said if said else row[EXIF_ORIENTATION]
    elif marker == APP14:
        if end - at >= 12 and begins(data, at, ADOBE_NAME):
            row[ADOBE] = u1(data, at + 11)
    elif marker == APP0 and end - at >= 14 and begins(data, at, JFIF_NAME):  # else libjpeg ignores it
        row[HAS_JFIF] = 1
    return np.int64(GOOD)


@loop
def end_of_image(data, scan):
    """Return the byte after the last end-of-image marker, -1 if none follows the scan."""
    at = np.int64(data.size) - 2
    while at >= scan:
        if data[at] == 0xFF and data[at + 1] == EOI:
            return at + 2
        at -= 1
    return np.int64(-1)


@loop
def conclude(data, at, row):
    """Record what is known once the scan begins, at byte `at`; return GOOD or the byte that is wrong."""
    row[SCAN_OFFSET], row[END_OFFSET] = at, end_of_image(data, at)
    if row[END_OFFSET] < 0:
        return np.int64(data.size)
    if row[COMPONENTS] == 0:
        return at
    if row[SCAN_COMPONENTS] != row[COMPONENTS]:
        row[FLAGS] |= MULTI_SCAN
    if row[COMPONENTS] == 4:
        row[FLAGS] |= CMYK
    # libjpeg's rule, in its order
    named = row[ADOBE] == 0 if row[ADOBE] >= 0 else row[NAMED_RGB] != 0
    if row[COMPONENTS] == 3 and not row[HAS_JFIF] and named:
        row[FLAGS] |= RGB_CODED
    return np.int64(GOOD)


@loop
def scan_one(data, row):
    """Fill a row; return GOOD or the byte that is wrong."""
    row[:] = 0
    row[ADOBE] = -1
    if data.size < 3 or data[0] != 0xFF or data[1] != SOI or data[2] != 0xFF:
        return np.int64(0)
    at, size, marker = np.int64(2), np.int64(data.size), np.int64(0)
    while marker != SOS:
        if at + 1 >= size or data[at] != 0xFF:
            return at
        while data[at] == 0xFF:  # any number of fill bytes
            at += 1
            if at == size:
                return at
        marker = u1(data, at)
        at += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # TEM and RST0 to RST7 stand alone
            continue
        if marker == EOI:
            return at - 2
        end = at + u2(data, at) if at + 2 <= size else size + 1
        if end < at + 2 or end > size:
            return at
        wrong = take(marker, data, at + 2, end, row)
        if wrong != GOOD:
            return wrong
        at = end
    return conclude(data, at, row)


@entry
def scan(stored, offsets, lengths, rows, lo, hi):
    """Read the headers of images [lo, hi); never reads outside an image's own bytes.

    Parameters
    ----------
    stored : uint8 (bytes,), C-contiguous, read-only
    offsets, lengths : int64 (N,)
        Bytes of `stored`.
    rows : int64 (N, COLUMNS)
        Filled in; if WRONG_AT is not -1, a row's other columns are undefined.

    Raises
    ------
    ValueError
        If an image lies outside `stored`, or an array has too few rows; rows before it are filled.
    """
    if lo < 0 or hi > min(offsets.size, lengths.size, rows.shape[0]) or rows.shape[1] != COLUMNS:
        raise ValueError("scan: offsets, lengths or rows do not fit")
    for n in range(lo, hi):
        begin, length = offsets[n], lengths[n]
        if begin < 0 or length < 0 or begin > stored.size - length:
            raise ValueError("scan: an image lies outside the memory")
        row = rows[n]
        row[WRONG_AT] = scan_one(stored[begin : begin + length], row)

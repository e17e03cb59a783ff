"""Gives a JPEG an index for crops, by which a part of it can be decoded by itself; see `cropped`.

The index is a segment APP15 in the headers, which decoders ignore: the bit at which each row of MCUs (blocks
of all components) begins, and each piece of 64 pixels in it, and the DC coefficients before it. Everything
else stays as it is, byte for byte. A checksum of the file tells whether the index is still that of its scan:
programs that change a JPEG (jpegtran) keep such segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ffcv_gpu.format import JpegFlag, crc32c
from ffcv_gpu.jpeg.base import ByteArray
from ffcv_gpu.jpeg.facts import BASELINE, JpegHeader
from ffcv_gpu.steps import IntArray

__all__ = ["has_true_crop_index", "load_crop_indexer", "with_crop_index", "without_crop_index"]

_DHT, _SOS, _APP15 = 0xC4, 0xDA, 0xEF
#: see `kernels.jpeg_parts.INDEX_NAME`, which is not imported before it is needed; a test compares them
_NAME = b"CROP\0\1"
#: bytes of the checksum, which ends the segment
_SUM_BYTES = 4
#: bytes of all pieces' entries at most, in a segment of 65533 with the MCUs per piece
_MOST = 65533 - len(_NAME) - 2 - _SUM_BYTES
#: bytes of a file at most: bits are numbered in 32 bits
_MOST_BYTES = 1 << 29
#: pixels between the pieces of a row, where the index fits into a segment
_STEP = 64
#: kinds without an index: restart markers, several scans, CMYK
_OTHER_KINDS = JpegFlag.RESTART | JpegFlag.MULTI_SCAN | JpegFlag.CMYK

#: marker, begin and end of a segment's contents
Segment = tuple[int, int, int]
#: counts uint8 (tables, 16) of Huffman codes by their length, and symbols uint8 (tables, 256) in order
Tables = tuple[ByteArray, ByteArray]

#: finds the pieces; None until `load_crop_indexer`
_find: Callable[[ByteArray, _Blocks, int, Tables], IntArray | None] | None = None


def load_crop_indexer() -> None:
    """Load compiled code into this process: processes forked from it then import and compile nothing."""
    global _find
    if _find is not None:
        return
    from ffcv_gpu.kernels import jpeg_pieces

    def find(data: ByteArray, blocks: _Blocks, step: int, tables: Tables) -> IntArray | None:
        entries = np.zeros((blocks.pieces(step), jpeg_pieces.ENTRY_COLUMNS), np.int64)
        plain, memory = np.empty(data.size + 8, np.uint8), jpeg_pieces.memory_of(len(tables[0]))
        rows, width, components, _ = blocks
        valid = jpeg_pieces.find(data, rows, width, step, components, *tables, memory, plain, entries)
        return entries if valid else None

    find(np.zeros(1, np.uint8), _Blocks(1, 1, np.zeros((1, 3), np.int64), 8), 1, _no_tables())
    _find = find


def with_crop_index(data: bytes, header: JpegHeader) -> bytes | None:
    """Return a JPEG with an index for crops in its headers, in place of one that it may have.

    None if it is no baseline JPEG of one scan without restart markers, has one piece, or is damaged. Takes
    0.65 ms for 60 kB.

    Parameters
    ----------
    data, header
        The file, and the result of `scan_jpeg`. Bytes after the image's end are dropped.
    """
    if header.encoding != BASELINE or header.precision != 8 or header.flags & _OTHER_KINDS:
        return None
    if header.components not in (1, 3):
        return None
    segments = _segments(data, header.scan_offset)
    blocks = _blocks(data, segments, header)
    step, most = max(_STEP // blocks.wide, 1), _MOST // (4 + 2 * header.components)
    while step < blocks.width and blocks.pieces(step) > most:
        step *= 2
    if not 2 <= blocks.pieces(step) <= most or len(data) > _MOST_BYTES:
        return None
    load_crop_indexer()
    assert _find is not None
    scan = np.frombuffer(data, np.uint8)[header.scan_offset : header.end_offset - 2]
    entries = _find(scan, blocks, step, _tables(data, segments))
    if entries is None:
        return None
    contents = _NAME + step.to_bytes(2, "big") + _packed(entries[1:], header.components)
    index = bytes([0xFF, _APP15]) + (len(contents) + _SUM_BYTES + 2).to_bytes(2, "big") + contents
    head, scan_head = _head(data, segments)
    before, after = head + index, scan_head + data[header.scan_offset : header.end_offset]
    return before + _sum(before, after) + after


def has_true_crop_index(data: ByteArray, scan_offset: int, components: int) -> bool:
    """Return whether a JPEG is as `with_crop_index` returned it, by its checksum: 6 microseconds for 110 kB.

    Parameters
    ----------
    data : uint8 (n,), C-contiguous
    scan_offset, components : int
        See `JpegHeader`.
    """
    if _NAME not in data[:scan_offset].tobytes():
        return False
    end = scan_offset - 8 - 2 * components  # the header of the scan follows the index
    found = data[end - _SUM_BYTES : end].tobytes()
    return found == _sum(data[: end - _SUM_BYTES], data[end:])


def _sum(before: bytes | ByteArray, after: bytes | ByteArray) -> bytes:
    """Return the checksum of all bytes but its own."""
    return crc32c(after, crc32c(before)).to_bytes(_SUM_BYTES, "big")


def without_crop_index(data: bytes, scan_offset: int) -> bytes:
    """Return a JPEG as it was before `with_crop_index`; unchanged if it has no index."""
    segments = _segments(data, scan_offset)
    if not any(_is_index(data, segment) for segment in segments):
        return data
    return b"".join([*_head(data, segments), data[scan_offset:]])


def _packed(entries: IntArray, components: int) -> bytes:
    packed = np.zeros(len(entries), [("bit", ">u4"), ("levels", ">i2", (components,))])
    packed["bit"], packed["levels"] = entries[:, 0], entries[:, 1 : 1 + components]
    return packed.tobytes()


def _segments(data: bytes, scan: int) -> list[Segment]:
    """Return the segments before the scan, whose lengths `scan_jpeg` has checked."""
    found, at = [], 2
    while at < scan:
        at += 1
        while data[at] == 0xFF:
            at += 1
        marker, at = data[at], at + 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        found.append((marker, at + 2, end))
        at = end
    return found


def _is_index(data: bytes, segment: Segment) -> bool:
    marker, begin, _ = segment
    return marker == _APP15 and data[begin : begin + len(_NAME)] == _NAME


def _head(data: bytes, segments: Sequence[Segment]) -> tuple[bytes, bytes]:
    """Return everything before the header of the scan, without an index; and that header."""
    edges = [2, *(end for _, _, end in segments)]
    kept = [
        data[lo:hi] for (lo, hi), s in zip(pairwise(edges), segments, strict=True) if not _is_index(data, s)
    ]
    return data[:2] + b"".join(kept[:-1]), kept[-1]


def _no_tables() -> Tables:
    """Return memory for four DC and four AC tables without codes."""
    return np.zeros((8, 16), np.uint8), np.zeros((8, 256), np.uint8)


def _tables(data: bytes, segments: Iterable[Segment]) -> Tables:
    """Return the Huffman tables, DC tables first."""
    counts, symbols = _no_tables()
    for marker, at, end in segments:
        while marker == _DHT and at + 17 <= end:
            number = 4 * (data[at] >> 4 & 1) + (data[at] & 3)
            counts[number] = np.frombuffer(data, np.uint8, 16, at + 1)
            size = min(int(counts[number].sum()), 256, end - at - 17)
            symbols[number, :size] = np.frombuffer(data, np.uint8, size, at + 17)
            at += 17 + size
    return counts, symbols


class _Blocks(NamedTuple):
    """How a scan is divided.

    Rows of MCUs, MCUs per row; for each component of the scan: blocks, DC and AC table; pixels per MCU along
    a row.
    """

    rows: int
    width: int
    components: IntArray
    wide: int

    def pieces(self, step: int) -> int:
        """Return the number of pieces of `step` MCUs."""
        return self.rows * -(-self.width // step)


def _blocks(data: bytes, segments: Sequence[Segment], header: JpegHeader) -> _Blocks:
    frame = next(begin for marker, begin, _ in segments if marker == BASELINE)
    places = range(frame + 6, frame + 6 + 3 * data[frame + 5], 3)
    factors = {data[k]: (data[k + 1] >> 4, data[k + 1] & 15) for k in places}
    scan = segments[-1][1]
    chosen = [(data[k], data[k + 1]) for k in range(scan + 1, scan + 1 + 2 * data[scan], 2)]
    if len(chosen) == 1:
        factors = {chosen[0][0]: (1, 1)}
    across, down = (max(each) for each in zip(*factors.values(), strict=True))
    components = []
    for name, tables in chosen:
        wide, high = factors.get(name, (0, 0))
        components.append((wide * high, tables >> 4 & 3, 4 + (tables & 3)))
    rows, width = -(-header.height // (8 * down)), -(-header.width // (8 * across))
    return _Blocks(rows, width, np.array(components, np.int64), 8 * across)

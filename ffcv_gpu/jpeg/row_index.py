"""Gives a JPEG an index of its rows, so that a crop can be decoded by itself; see `by_rows`.

A baseline JPEG gets a restart marker before each row of MCUs (blocks of all components), and a segment with
the rows' offsets. It stays a JPEG that any decoder reads, with the same coefficients.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.base import ByteArray
from ffcv_gpu.jpeg.facts import BASELINE, JpegHeader
from ffcv_gpu.steps import IntArray

__all__ = ["load_row_indexer", "with_row_index"]

_DHT, _DRI, _APP15 = 0xC4, 0xDD, 0xEF
#: see `kernels.jpeg_rows.INDEX_NAME`, which is not imported before it is needed; a test compares them
_NAME = b"ROWS\0\1"
#: bytes of a segment at most
_MOST = 65533
#: kinds that are left alone: arithmetic, progressive, several scans, CMYK, restart markers of their own
_OTHER_FLAGS = JpegFlag.RESTART | JpegFlag.MULTI_SCAN | JpegFlag.CMYK


#: counts uint8 (tables, 16) of Huffman codes by their length, and symbols uint8 (tables, 256) in order
Tables = tuple[ByteArray, ByteArray]

#: inserts restart markers; None until `load_row_indexer`
_insert: Callable[..., tuple[ByteArray, IntArray] | None] | None = None


def load_row_indexer() -> None:
    """Load compiled code into this process: processes forked from it then import and compile nothing."""
    global _insert
    if _insert is not None:
        return
    from ffcv_gpu.kernels import jpeg_rows

    def insert(
        data: ByteArray, rows: int, width: int, components: IntArray, tables: Tables, dc_tables: Tables
    ) -> tuple[ByteArray, IntArray] | None:
        plain, out = np.empty(data.size + 8, np.uint8), np.empty(2 * data.size + 64 * rows, np.uint8)
        starts, memory = np.zeros(rows + 1, np.int64), jpeg_rows.memory_of(len(tables[0]), len(components))
        size = jpeg_rows.insert(
            data, rows, width, components, *tables, *dc_tables, memory, plain, out, starts
        )
        return None if size < 0 else (out[:size], starts)

    insert(np.zeros(1, np.uint8), 1, 1, np.zeros((1, 4), np.int64), _no_tables(8), _no_tables(0))
    _insert = insert


def with_row_index(data: bytes, header: JpegHeader) -> bytes | None:
    """Return a JPEG with restart markers between rows of MCUs, and an index of them; the same coefficients.

    None if it is no baseline JPEG of one scan without restart markers, has one row, or has Huffman tables
    without a code that is needed. About 1.5 ms for 110 kB.

    Parameters
    ----------
    data, header
        The file, and the result of `scan_jpeg`. Bytes after the image's end are dropped.
    """
    if header.encoding != BASELINE or header.precision != 8 or header.flags & _OTHER_FLAGS:
        return None
    segments = _segments(data, header.scan_offset)
    rows, width, components = _blocks(data, segments, header)
    if rows < 2 or len(_NAME) + 4 * rows > _MOST:
        return None
    load_row_indexer()
    assert _insert is not None
    scan = np.frombuffer(data, np.uint8)[header.scan_offset : header.end_offset - 2]
    tables, recoded = _tables(data, segments), False
    found = _insert(scan, rows, width, components, tables, _no_tables(0))
    if found is None:  # a table made for this image may lack the code of what is larger than any difference
        found, recoded = _insert(scan, rows, width, components, tables, _full_dc_tables()), True
    if found is None:
        return None
    scan, starts = found
    head = [
        _segment(marker, data[begin:end]) for marker, begin, end in segments if not recoded or marker != _DHT
    ]
    if recoded:
        head.insert(-1, _segment(_DHT, b"".join(_dc_tables_written(components, tables))))
    head.insert(-1, _segment(_DRI, struct.pack(">H", width)))
    head.insert(-1, _segment(_APP15, _NAME + starts[1:].astype(">u4").tobytes()))
    return b"".join([b"\xff\xd8", *head, scan.tobytes(), b"\xff\xd9"])


def _dc_tables_written(components: IntArray, tables: Tables) -> Iterator[bytes]:
    """Yield the Huffman tables of an image whose DC tables are `_full_dc_tables`, as they are stored."""
    full = _full_dc_tables()
    for number in np.unique(components[:, 2:]).tolist():
        counts, symbols = (column[number] for column in (full if number < 4 else tables))
        head = bytes([number if number < 4 else 0x10 + number - 4])
        yield head + counts.tobytes() + symbols[: int(counts.sum())].tobytes()


def _no_tables(count: int) -> Tables:
    return np.zeros((count, 16), np.uint8), np.zeros((count, 256), np.uint8)


def _full_dc_tables() -> Tables:
    """Return four DC tables with a code for every difference of 8-bit images: table K.3 of ITU-T T.81."""
    counts, symbols = _no_tables(4)
    counts[:, :9] = 0, 1, 5, 1, 1, 1, 1, 1, 1
    symbols[:, :12] = np.arange(12)
    return counts, symbols


def _tables(data: bytes, segments: Iterable[tuple[int, int, int]]) -> Tables:
    """Return the Huffman tables, DC tables first."""
    counts, symbols = _no_tables(8)
    for marker, at, end in segments:
        while marker == _DHT and at + 17 <= end:
            number = 4 * (data[at] >> 4 & 1) + (data[at] & 3)
            counts[number] = np.frombuffer(data, np.uint8, 16, at + 1)
            size = min(int(counts[number].sum()), 256, end - at - 17)
            symbols[number, :size] = np.frombuffer(data, np.uint8, size, at + 17)
            at += 17 + size
    return counts, symbols


def _blocks(
    data: bytes, segments: Sequence[tuple[int, int, int]], header: JpegHeader
) -> tuple[int, int, IntArray]:
    """Return rows of MCUs, MCUs per row, and for each component of the scan: blocks, DC and AC table."""
    frame = next(begin for marker, begin, _ in segments if marker == BASELINE)
    factors = {
        data[k]: (data[k + 1] >> 4, data[k + 1] & 15)
        for k in range(frame + 6, frame + 6 + 3 * data[frame + 5], 3)
    }
    scan = segments[-1][1]
    chosen = [(data[k], data[k + 1]) for k in range(scan + 1, scan + 1 + 2 * data[scan], 2)]
    if len(chosen) == 1:
        factors, most = {chosen[0][0]: (1, 1)}, (1, 1)
    else:
        most = max(x for x, _ in factors.values()), max(y for _, y in factors.values())
    components = [(*factors.get(name, (1, 1)), tables >> 4 & 3, 4 + (tables & 3)) for name, tables in chosen]
    rows, width = -(-header.height // (8 * most[1])), -(-header.width // (8 * most[0]))
    return rows, width, np.array(components, np.int64)


def _segment(marker: int, contents: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(contents) + 2) + contents


def _segments(data: bytes, scan: int) -> list[tuple[int, int, int]]:
    """Return marker, begin and end of the contents of each segment; `scan_jpeg` has checked them."""
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

"""The quality at which a JPEG was encoded, estimated from its luminance table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["quality_of"]

_DQT, _SOS = 0xDB, 0xDA
#: the standard's example luminance table (annex K), which libjpeg scales by the quality
_STANDARD = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


def _tables() -> npt.NDArray[np.int64]:
    """Return libjpeg's luminance tables for qualities 1 to 100, each sorted: int64 (100, 64)."""
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    scaled = (np.array(_STANDARD) * scale[:, None] + 50) // 100
    return np.sort(np.clip(scaled, 1, 255), axis=1)


_TABLES = _tables()


def quality_of(data: bytes) -> int | None:
    """Return the nearest quality on libjpeg's scale, 1 to 100; None if the JPEG has no luminance table.

    Sorted values are compared, so the order of a table's entries does not matter. The headers of `data`
    must be valid.
    """
    table = _luminance(data)
    if table is None:
        return None
    far = np.abs(_TABLES - np.sort(table)).sum(axis=1)
    return 100 - int(far[::-1].argmin())  # the higher one of a tie


def _luminance(data: bytes) -> npt.NDArray[np.int64] | None:
    at = 2
    while at + 4 <= len(data) and data[at + 1] != _SOS:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == _DQT:
            table = _first_table(data[at + 4 : end])
            if table is not None:
                return table
        at = end
    return None


def _first_table(segment: bytes) -> npt.NDArray[np.int64] | None:
    """Return table 0 of a DQT segment (8- or 16-bit tables); None if it is absent or truncated."""
    at = 0
    while at < len(segment):
        kind = np.dtype(">u2") if segment[at] >> 4 else np.dtype("u1")
        end = at + 1 + 64 * kind.itemsize
        if segment[at] & 15 == 0 and end <= len(segment):
            return np.frombuffer(segment[at + 1 : end], kind).astype(np.int64)
        at = end
    return None

"""At which quality a JPEG was stored, told by its luminance table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["quality_of"]

_DQT, _SOS = 0xDB, 0xDA
#: the standard's example of a luminance table (annex K), which libjpeg scales by the quality
_STANDARD = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


def _tables() -> npt.NDArray[np.int64]:
    """Return libjpeg's luminance table of each quality from 1 to 100, each sorted: (100, 64)."""
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    scaled = (np.array(_STANDARD) * scale[:, None] + 50) // 100
    return np.sort(np.clip(scaled, 1, 255), axis=1)


_TABLES = _tables()


def quality_of(data: bytes) -> int | None:
    """Return the quality in libjpeg's sense, 1 to 100, that comes nearest; None without a table.

    Sorted values are compared: a table's order in the file is of no account then. `data` has sound headers.
    """
    table = _luminance(data)
    if table is None:
        return None
    far = np.abs(_TABLES - np.sort(table)).sum(axis=1)
    return 100 - int(far[::-1].argmin())  # the higher of two that are equally near


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
    """Return table 0 of a segment with one or more tables of 8 or 16 bits, if it has it whole."""
    at = 0
    while at < len(segment):
        kind = np.dtype(">u2") if segment[at] >> 4 else np.dtype("u1")
        end = at + 1 + 64 * kind.itemsize
        if segment[at] & 15 == 0 and end <= len(segment):
            return np.frombuffer(segment[at + 1 : end], kind).astype(np.int64)
        at = end
    return None

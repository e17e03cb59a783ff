"""Reads a JPEG's headers: its size, and what a decoder needs to know in advance. Decodes nothing.

Pure Python over the dozen marker segments before the scan: about 15 microseconds, whatever the size.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import DecodeError
from ffcv_gpu.format import JPEG_FACTS, JpegFlag, no_facts
from ffcv_gpu.limits import too_many_pixels
from ffcv_gpu.steps import IntArray

__all__ = ["BASELINE", "JpegHeader", "exif_orientation", "facts_in", "is_jpeg", "scan_jpeg"]

BASELINE = 0xC0

_SOS, _EOI, _DQT, _DRI, _APP0, _APP1, _APP14 = 0xDA, 0xD9, 0xDB, 0xDD, 0xE0, 0xE1, 0xEE
#: C0 to CF start a frame, except DHT, JPG and DAC
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: TEM and RST0 to RST7 have no segment
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
#: (luma / chroma) sampling, horizontal and vertical, to nvJPEG's chroma subsampling enum
_SUBSAMPLING = {(1, 1): 0, (2, 1): 1, (2, 2): 2, (1, 2): 3, (4, 1): 4, (4, 2): 5}
_GREY, _UNKNOWN = 6, -1
# Plain ints: arithmetic on enum flags takes longer than the rest of a scan.
_RESTART, _MULTI_SCAN, _RGB_CODED, _CMYK, _TABLES_16BIT = (
    int(flag)
    for flag in (
        JpegFlag.RESTART, JpegFlag.MULTI_SCAN, JpegFlag.RGB_CODED, JpegFlag.CMYK, JpegFlag.TABLES_16BIT
    )
)  # fmt: skip
_EXIF = b"Exif\0\0"
_ORIENTATION_TAG, _SHORT = 0x0112, 3


class JpegHeader(NamedTuple):
    """The contents of one JPEG's headers.

    Attributes
    ----------
    height, width : int
        In pixels, as stored: an EXIF rotation is not applied.
    precision : int
        Bits per sample, nearly always 8.
    subsampling, encoding, components, exif_orientation : int
        As in `ffcv_gpu.format.JPEG_FACTS`.
    flags : int
        The `JpegFlag` bits that can be read from the headers.
    scan_offset, end_offset : int
        Offsets of the first entropy-coded byte and of the end of the last end-of-image marker, in bytes.
    """

    height: int
    width: int
    precision: int
    subsampling: int
    encoding: int
    components: int
    exif_orientation: int
    flags: int
    scan_offset: int
    end_offset: int

    @property
    def oddities(self) -> tuple[str, ...]:
        """Why some decoders (nvJPEG's fast ones, hardware) cannot decode it; empty for plain baseline."""
        found = []
        if self.components not in (1, 3):
            found.append("CMYK" if self.components == 4 else f"{self.components} components")
        if self.encoding != BASELINE or self.precision != 8:
            found.append(_KINDS.get(self.encoding, "not baseline") if self.precision == 8 else "not 8 bits")
        elif self.flags & _MULTI_SCAN:
            found.append("several scans")
        if self.flags & _RESTART:
            found.append("restart markers")
        return tuple(found)


_KINDS = {0xC1: "extended sequential", 0xC2: "progressive", 0xC9: "arithmetic", 0xCA: "arithmetic"}


def is_jpeg(data: bytes) -> bool:
    """Return whether the bytes begin like a JPEG."""
    return data[:3] == b"\xff\xd8\xff"


def scan_jpeg(data: bytes) -> JpegHeader:
    """Read the headers of a JPEG.

    Parameters
    ----------
    data : bytes or bytearray
        The whole file; bytes after the end-of-image marker are ignored.

    Raises
    ------
    DecodeError
        If this is not a JPEG, its headers are damaged, it has too many pixels (`ffcv_gpu.limits`), or no
        end-of-image marker follows the scan (the file is truncated). The message names the byte.
    """
    if not is_jpeg(data):
        _bad(0, f"begins with {bytes(data[:4])!r}, but a JPEG begins with b'\\xff\\xd8\\xff'")
    parts = _Segments()
    at = 2
    while True:
        at = _marker(data, at)
        marker = data[at]
        at += 1
        if marker in _BARE:
            continue
        if marker == _EOI:
            _bad(at - 2, "the image ends before its scan begins")
        end = at + int.from_bytes(data[at : at + 2], "big")
        if not at + 2 <= end <= len(data):
            _bad(at, f"segment 0x{marker:02X} ends at byte {end}, but the data at {len(data)}")
        parts.take(marker, data, at + 2, end)
        at = end
        if marker == _SOS:
            return parts.header(at, _end_of_image(data, at))


def facts_in(data: npt.NDArray[np.uint8], offsets: IntArray, lengths: IntArray) -> npt.NDArray[Any]:
    """Return the `JPEG_FACTS` (n,) of JPEGs i in ``data[offsets[i]:][:lengths[i]]``; unknown if damaged."""
    facts = no_facts(len(offsets))
    for row, (offset, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
        with suppress(DecodeError):
            header = scan_jpeg(data[offset : offset + length].tobytes())
            facts[row] = tuple(getattr(header, member) for member in JPEG_FACTS.names or ())
    return facts


def _marker(data: bytes, at: int) -> int:
    """Return the offset of the marker's second byte; fill bytes are allowed before it."""
    if at + 1 >= len(data):
        _bad(at, "the data end within the headers: truncated")
    if data[at] != 0xFF:
        _bad(at, f"expected a marker, found 0x{data[at]:02X}")
    while data[at] == 0xFF:
        at += 1
        if at == len(data):
            _bad(at, "the data end within the headers: truncated")
    return at


def _end_of_image(data: bytes, scan: int) -> int:
    # Searched from the end: the marker is nearly always at the end, and a search from the front takes as long
    # as reading the file (100 microseconds for 110 kB).
    end = data.rfind(b"\xff\xd9", scan)
    if end < 0:
        _bad(len(data), "no end-of-image marker: truncated")
    return end + 2


def _bad(at: int, why: str) -> NoReturn:
    raise DecodeError(f"JPEG, byte {at}: {why}")


class _Segments:
    """Collects the contents of the segments."""

    def __init__(self) -> None:
        self.frame: tuple[int, ...] = ()
        self.encoding = 0
        self.sampling: list[tuple[int, int, int]] = []
        self.orientation = 0
        self.adobe: int | None = None
        self.jfif = False
        self.flags = 0
        self.scan_components = 0

    def take(self, marker: int, data: bytes, at: int, end: int) -> None:
        if marker in _FRAMES:
            self._frame(marker, data, at, end)
        elif marker == _SOS:
            self.scan_components = data[at] if at < end else 0
        elif marker == _DQT:
            self._tables(data, at, end)
        elif marker == _DRI and any(data[at:end]):
            self.flags |= _RESTART
        elif marker == _APP1 and data[at : at + 6] == _EXIF:
            self.orientation = exif_orientation(bytes(data[at:end])) or self.orientation
        elif marker == _APP14 and data[at : at + 5] == b"Adobe" and end - at >= 12:
            self.adobe = data[at + 11]
        elif marker == _APP0 and data[at : at + 5] == b"JFIF\0" and end - at >= 14:  # else libjpeg ignores it
            self.jfif = True

    def _frame(self, marker: int, data: bytes, at: int, end: int) -> None:
        if self.frame:
            _bad(at, "a second frame begins")
        if end - at < 6 or end - at < 6 + 3 * data[at + 5]:
            _bad(at, "the frame's header is truncated")
        self.frame = struct.unpack_from(">BHHB", data, at)
        self.encoding = marker
        for k in range(at + 6, at + 6 + 3 * data[at + 5], 3):
            self.sampling.append((data[k], data[k + 1] >> 4, data[k + 1] & 15))
        if 0 in self.frame[1:] or any(0 in pair[1:] for pair in self.sampling):
            _bad(at, f"an image of {self.frame[2]} x {self.frame[1]} pixels, {self.frame[3]} components")
        if words := too_many_pixels(*self.frame[1:3]):
            _bad(at, words)

    def _tables(self, data: bytes, at: int, end: int) -> None:
        while at < end:
            wide = data[at] >> 4
            if wide:
                self.flags |= _TABLES_16BIT
            at += 1 + (128 if wide else 64)

    def header(self, scan: int, end: int) -> JpegHeader:
        if not self.frame:
            _bad(scan, "the scan begins before any frame")
        precision, height, width, components = self.frame
        flags = self.flags
        if self.scan_components != components:
            flags |= _MULTI_SCAN
        if components == 4:
            flags |= _CMYK
        if components == 3 and self._is_rgb():
            flags |= _RGB_CODED
        return JpegHeader(
            height, width, precision, self._subsampling(), self.encoding, components, self.orientation,
            flags, scan, end,
        )  # fmt: skip

    def _is_rgb(self) -> bool:
        """Return whether the components are R, G, B, by libjpeg's rules in libjpeg's order."""
        if self.jfif:
            return False
        if self.adobe is not None:
            return self.adobe == 0
        return bytes(component for component, _, _ in self.sampling) == b"RGB"

    def _subsampling(self) -> int:
        if len(self.sampling) == 1:
            return _GREY
        (_, wide, high), *chroma = self.sampling[:3]
        _, wide_chroma, high_chroma = chroma[0]
        if len(chroma) < 2 or chroma[1][1:] != chroma[0][1:] or wide % wide_chroma or high % high_chroma:
            return _UNKNOWN
        return _SUBSAMPLING.get((wide // wide_chroma, high // high_chroma), _UNKNOWN)


def exif_orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8, from an EXIF block (with or without its leading ``Exif``); else 0."""
    tiff = block.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 0
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    if directory + 2 > len(tiff):
        return 0
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for at in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == _ORIENTATION_TAG:
            return value if kind == _SHORT and 1 <= value <= 8 else 0
    return 0

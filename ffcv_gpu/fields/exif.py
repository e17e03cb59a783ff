"""The EXIF orientation of image files that are not JPEG: PNG and WebP. Decodes nothing.

OpenCV turns images accordingly or not, but does not say which have an orientation. It always turns TIFF
files, and never AVIF files.
"""

from __future__ import annotations

from collections.abc import Iterator

from ffcv_gpu.jpeg.facts import exif_orientation

__all__ = ["orientation_in"]

_PNG, _RIFF, _WEBP = b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"


def orientation_in(data: bytes) -> int | None:
    """Return the orientation of a PNG or WebP file, 1 to 8, or 0 without one; None for other files.

    PNG (third edition), 11.3.4.5: chunk eXIf. WebP container specification: chunk EXIF.
    """
    if data.startswith(_PNG):
        return _orientation(data, _png_chunks(data), b"eXIf")
    if data[:4] == _RIFF and data[8:12] == _WEBP:
        return _orientation(data, _webp_chunks(data), b"EXIF")
    return None


def _orientation(data: bytes, chunks: Iterator[tuple[bytes, int, int]], wanted: bytes) -> int:
    for kind, start, stop in chunks:
        if kind == wanted:
            return exif_orientation(data[start:stop])
    return 0


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each chunk, and where its content begins and ends."""
    at = len(_PNG)
    while at + 8 <= len(data):
        stop = at + 8 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at + 8, stop
        at = stop + 4  # the checksum


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each chunk, and where its content begins and ends."""
    at = 12
    while at + 8 <= len(data):
        stop = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, stop
        at = stop + stop % 2  # chunks begin at even bytes

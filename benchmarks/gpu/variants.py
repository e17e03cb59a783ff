"""JPEGs of every kind, encoded from a few photographs by Pillow, simplejpeg and OpenCV; and damaged ones."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile

__all__ = ["DAMAGES", "ENGINE_TAKES", "Variant", "damaged", "encode", "multi_scan", "variants"]

Pixels = npt.NDArray[np.uint8]
SUBSAMPLINGS = ("444", "422", "420", "440", "411", "gray")
#: kinds that an engine decodes according to NVIDIA's documentation
ENGINE_TAKES = ("444", "422", "420", "440", "gray")
SIZES = ((1, 1), (7, 7), (8, 8), (16, 16), (33, 17), (64, 64), (200, 8000), (64, 16384), (4000, 6000))
DAMAGES = ("header cut", "scan cut", "bytes flipped", "png", "progressive", "411")


@dataclass(frozen=True)
class Variant:
    """One file. `kind`: its subsampling, or what is special; `plain`: every decoder should accept it."""

    name: str
    kind: str
    data: bytes
    plain: bool = False


def encode(image: Pixels, subsampling: str = "420", quality: int = 90) -> bytes:
    """Encode RGB as baseline JPEG with this subsampling."""
    if subsampling == "gray":
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
        found: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(grey), quality, "Gray", "Gray")
        return found
    found = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", subsampling)
    return found


def _pillow(image: Pixels, mode: str = "RGB", orientation: int = 0, **options: Any) -> bytes:
    # Optimised and progressive JPEGs are encoded into a single buffer: with Pillow's default size of 64 kB
    # (or a byte per pixel), noisy photographs fail with "broken data stream".
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 4 * image.size)
    picture, out = Image.fromarray(image).convert(mode), io.BytesIO()
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    picture.save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def _segments(data: bytes) -> dict[int, list[bytes]]:
    """Return the segments before the scan by marker, and the entropy-coded bytes as 0."""
    found: dict[int, list[bytes]] = {}
    at = 2
    while True:
        marker, size = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        found.setdefault(marker, []).append(data[at : at + 2 + size])
        at += 2 + size
        if marker == 0xDA:
            found[0] = [data[at : data.rindex(b"\xff\xd9")]]
            return found


def multi_scan(image: Pixels) -> bytes:
    """Encode as baseline 4:4:4 with one scan per component.

    No available encoder writes these. A grey JPEG has a scan of one component, so three grey JPEGs with the
    same tables are combined.
    """
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    parts = [
        _segments(simplejpeg.encode_jpeg(np.ascontiguousarray(ycc[..., k : k + 1]), 90, "Gray", "Gray"))
        for k in range(3)
    ]
    height, width = image.shape[:2]
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, height, width, 3)
    frame += b"".join(bytes([k + 1, 0x11, 0]) for k in range(3))
    head = b"".join(parts[0].get(0xE0, []) + parts[0][0xDB]) + frame + b"".join(parts[0][0xC4])
    scans = b"".join(
        struct.pack(">BBHBBBBBB", 0xFF, 0xDA, 8, 1, k + 1, 0, 0, 63, 0) + part[0][0]
        for k, part in enumerate(parts)
    )
    return b"\xff\xd8" + head + scans + b"\xff\xd9"


def variants(images: Sequence[Pixels], sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[Variant]:
    """Yield undamaged files of every kind; `images` are RGB."""
    for number, image in enumerate(images):
        for kind in SUBSAMPLINGS:
            yield Variant(f"{kind} {number}", kind, encode(image, kind), plain=kind in ENGINE_TAKES)
        progressive = {"4:4:4": "444", "4:2:0": "420"}
        for words, kind in progressive.items():
            yield Variant(f"progressive {kind} {number}", "progressive",
                          _pillow(image, subsampling=words, progressive=True))  # fmt: skip
        yield Variant(f"restart {number}", "restart", _pillow(image, restart_marker_rows=1))
        yield Variant(f"several scans {number}", "several scans", multi_scan(image))
        yield Variant(f"rgb-coded {number}", "rgb-coded", _pillow(image, keep_rgb=True))
        yield Variant(f"cmyk {number}", "cmyk", _pillow(image, "CMYK"))
        yield Variant(f"optimised {number}", "optimised", _pillow(image, optimize=True), plain=True)
        extended = encode(image, "420").replace(b"\xff\xc0\x00\x11", b"\xff\xc1\x00\x11", 1)
        yield Variant(f"extended {number}", "extended", extended)
    for orientation in (1, 3, 6, 8):
        yield Variant(f"exif {orientation}", "exif", _pillow(images[0], orientation=orientation), plain=True)
    for height, width in sizes:
        yield Variant(f"{width}x{height}", "size", encode(stretched(images[0], height, width)), plain=True)


def stretched(image: Pixels, height: int, width: int) -> Pixels:
    """Resize, ignoring the aspect ratio."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def damaged(data: bytes, image: Pixels, kind: str, seed: int = 0) -> bytes:
    """Return a bad file: damaged `data`, or `image` encoded in an unusual way."""
    scan = data.index(b"\xff\xda")
    if kind == "header cut":
        return data[: scan // 2]
    if kind == "scan cut":
        return data[: scan + (len(data) - scan) // 2]
    if kind == "bytes flipped":
        broken, rng = bytearray(data), np.random.default_rng(seed)
        for at in rng.integers(scan + 14, len(data) - 2, 10).tolist():
            broken[at] ^= int(rng.integers(1, 255))
        return bytes(broken)
    if kind == "png":
        return bytes(cv2.imencode(".png", image)[1])
    if kind == "progressive":
        return _pillow(image, progressive=True)
    if kind == "411":
        return encode(image, "411")
    raise ValueError(kind)

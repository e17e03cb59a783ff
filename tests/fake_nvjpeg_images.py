"""The image half of the fake nvJPEG: reads headers as nvJPEG does, decodes with libjpeg-turbo.

What the parser answers to whole and broken files is compared with NVIDIA's own in
``tests/test_fake_nvjpeg.py``; the pixels are simplejpeg's, bit for bit, also as planes of YCbCr.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg

from ffcv_gpu.native.nvjpeg_types import nvjpegChromaSubsampling_t as Css
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status

__all__ = ["Jpeg", "Refused", "as_ycbcr", "components", "parse", "render"]

Pixels = npt.NDArray[np.uint8]
Roi = tuple[int, int, int, int]

SOI, EOI, SOS, DRI, APP0, APP1, APP14 = 0xD8, 0xD9, 0xDA, 0xDD, 0xE0, 0xE1, 0xEE
DECODABLE_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JFIF = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"
ALONE = frozenset({0x01, SOI, EOI, *range(0xD0, 0xD8)})

RATIOS = {
    (1, 1): Css.NVJPEG_CSS_444,
    (2, 1): Css.NVJPEG_CSS_422,
    (2, 2): Css.NVJPEG_CSS_420,
    (1, 2): Css.NVJPEG_CSS_440,
    (4, 1): Css.NVJPEG_CSS_411,
    (4, 2): Css.NVJPEG_CSS_410,
    (2, 4): Css.NVJPEG_CSS_410V,
}


class Refused(Exception):
    """Ends a call of the fake with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(Status(status).name)
        self.status = int(status)


@dataclass(frozen=True)
class Jpeg:
    """What a header says. `factors` are (horizontal, vertical) of each component."""

    width: int = 0
    height: int = 0
    encoding: int = 0
    precision: int = 0
    factors: tuple[tuple[int, int], ...] = ()
    identifiers: tuple[int, ...] = ()
    orientation: int = 0
    restart: bool = False
    scans: int = 0
    jfif: bool = False
    adobe: int | None = None

    @property
    def subsampling(self) -> int:
        if len(self.factors) < 3:
            return Css.NVJPEG_CSS_GRAY if len(self.factors) == 1 else Css.NVJPEG_CSS_UNKNOWN
        (h, v), (h1, v1), other = self.factors[:3]
        if (h1, v1) != other or h % h1 or v % v1:
            return Css.NVJPEG_CSS_UNKNOWN
        return RATIOS.get((h // h1, v // v1), Css.NVJPEG_CSS_UNKNOWN)

    @property
    def steps(self) -> list[tuple[int, int]]:
        """Pixels of the image to one of each component, (horizontal, vertical)."""
        widest, tallest = (max(f[axis] for f in self.factors) for axis in (0, 1))
        return [(widest // h, tallest // v) for h, v in self.factors]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each component."""
        if not self.factors:
            return []
        widest, tallest = (max(f[axis] for f in self.factors) for axis in (0, 1))
        return [(-(-self.width * h // widest), -(-self.height * v // tallest)) for h, v in self.factors]

    @property
    def rgb_coded(self) -> bool:
        """By libjpeg's rule."""
        if len(self.factors) != 3 or self.jfif:
            return False
        return self.adobe == 0 if self.adobe is not None else self.identifiers == (82, 71, 66)


# ---- headers


def parse(data: bytes, until: Literal["frame", "scan", "end"]) -> Jpeg:
    """Read a header as far as GetImageInfo ("frame"), ParseHeader ("scan") or Parse ("end") does.

    Raises
    ------
    Refused
        With nvJPEG's status.
    """
    if len(data) < 2:
        raise Refused(Status.NVJPEG_STATUS_INCOMPLETE_BITSTREAM)
    if data[:2] != b"\xff\xd8":
        raise Refused(Status.NVJPEG_STATUS_BAD_JPEG)
    jpeg, selected = Jpeg(), []
    for marker, body in segments(data):
        if marker in FRAMES:
            jpeg = frame(jpeg, marker, body)
            if until == "frame":
                return jpeg
        elif marker == SOS:
            jpeg = replace(jpeg, scans=jpeg.scans + 1)
            selected.append(tuple(body[1 : 1 + 2 * body[0] : 2]))
            if until == "scan":
                return jpeg
        elif marker == DRI:
            jpeg = replace(jpeg, restart=body != b"\0\0")
        elif marker == APP0 and body[:5] == b"JFIF\0":
            jpeg = replace(jpeg, jfif=True)
        elif marker == APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            jpeg = replace(jpeg, adobe=body[11])
        elif marker == APP1 and body[:6] == b"Exif\0\0":
            jpeg = replace(jpeg, orientation=orientation(body[6:]))
        elif marker == EOI and until == "scan" and jpeg.width:
            return jpeg
    check_scans(jpeg, selected)
    return jpeg


def check_scans(jpeg: Jpeg, selected: list[tuple[int, ...]]) -> None:
    if not jpeg.width:
        raise Refused(Status.NVJPEG_STATUS_INCOMPLETE_BITSTREAM)
    blocks = dict(zip(jpeg.identifiers, (h * v for h, v in jpeg.factors), strict=True))
    for chosen in selected:
        unknown = not set(chosen) <= set(blocks)
        if unknown or (len(chosen) > 1 and sum(blocks[key] for key in chosen) > 10):
            raise Refused(Status.NVJPEG_STATUS_BAD_JPEG)
    if not selected:
        raise Refused(Status.NVJPEG_STATUS_BAD_JPEG)


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and body of all segments, and of the end marker.

    Raises
    ------
    Refused
        If the data ends before the first scan has begun; how a scan ends is for the decoder to see.
    """
    in_scan = False
    for marker, _, body in headers(data):
        in_scan = in_scan or marker == SOS
        yield marker, body
        if marker == EOI:
            return
    if not in_scan:
        raise Refused(Status.NVJPEG_STATUS_INCOMPLETE_BITSTREAM)


def headers(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, place and body; entropy-coded data, fill bytes and stray bytes are passed over."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker == EOI:
            yield EOI, at, b""
        if marker in (0x00, 0xFF) or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 2 + max(size, 2) > len(data):
            return
        yield marker, at, data[at + 4 : at + 2 + size]
        at += 2 + size


def frame(jpeg: Jpeg, marker: int, body: bytes) -> Jpeg:
    if marker not in DECODABLE_FRAMES or jpeg.width:
        raise Refused(Status.NVJPEG_STATUS_JPEG_NOT_SUPPORTED)
    height, width, count = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5]
    rows = [body[6 + 3 * k : 9 + 3 * k] for k in range(count)]
    factors = tuple((row[1] >> 4, row[1] & 15) for row in rows)
    if not width or not height or any(not 1 <= value <= 4 for pair in factors for value in pair):
        raise Refused(Status.NVJPEG_STATUS_BAD_JPEG)
    return replace(
        jpeg,
        width=width,
        height=height,
        encoding=marker,
        precision=body[0],
        factors=factors,
        identifiers=tuple(row[0] for row in rows),
    )


def orientation(tiff: bytes) -> int:
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    directory = number(4, 4)
    for at in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(at, 2) == 0x0112:
            value = number(at + 8, 2)
            return value if 1 <= value <= 8 else 0
    return 0


# ---- pixels


def components(data: bytes, jpeg: Jpeg) -> list[Pixels]:
    """Decode each component at its own size, before any colour conversion: (height, width) each.

    libjpeg-turbo's RGB interface does not give these, but its CMYK one converts nothing: so a fourth
    component of which there is no data is written into the header, chroma is asked to be replicated, and
    the copies are dropped again.
    """
    if len(jpeg.factors) == 1:
        return [decode(data, "GRAY")[..., 0]]
    raw = decode(data if len(jpeg.factors) == 4 else with_fourth_component(data), "CMYK", replicate=True)
    return [raw[::v, ::h, k] for k, (h, v) in enumerate(jpeg.steps)]


def with_fourth_component(data: bytes) -> bytes:
    out = bytearray(data[:2])
    for marker, at, body in headers(data):
        if marker in FRAMES:
            free = next(k for k in range(1, 256) if k not in body[6::3])
            body = body[:5] + b"\4" + body[6:] + bytes([free, body[7], body[8]])
        if marker != APP14:  # Adobe's marker would have the components converted
            out += bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
        if marker == SOS:
            return bytes(out) + data[at + 4 + len(body) :]
    raise Refused(Status.NVJPEG_STATUS_BAD_JPEG)


def decode(data: bytes, colorspace: str, *, replicate: bool = False) -> Pixels:
    try:
        # Not strict: nvJPEG too fills what is missing of a scan, and reports success.
        return simplejpeg.decode_jpeg(data, colorspace, fastupsample=replicate, strict=False)
    except ValueError:
        raise Refused(Status.NVJPEG_STATUS_BAD_JPEG) from None


def as_ycbcr(data: bytes) -> bytes:
    """Return the same JPEG, for which libjpeg takes three components for YCbCr: it says that it is JFIF."""
    return data[:2] + JFIF + data[2:]


def colours(data: bytes, jpeg: Jpeg, *, interpolate: bool) -> Pixels:
    """Decode to RGB, (height, width, 3)."""
    if len(jpeg.factors) != 4:
        return decode(data, "RGB", replicate=not interpolate)
    inks = decode(data, "CMYK", replicate=not interpolate).astype(np.uint16)
    return ((inks[..., :3] * inks[..., 3:] + 126) // 255).astype(np.uint8)


def render(
    data: bytes,
    jpeg: Jpeg,
    output: int,
    *,
    interpolate: bool = False,
    roi: Roi | None = None,
    factor: int = 1,
) -> list[Pixels]:
    """Return what each channel of the destination receives: uint8 (rows, bytes of a row).

    `roi` is x, y, width, height; `factor` 2, 4 or 8 makes the image smaller (here by averaging).
    """
    x, y, width, height = roi or (0, 0, jpeg.width, jpeg.height)

    def cut(pixels: Pixels, across: int = 1, down: int = 1) -> Pixels:
        top, left = y // down, x // across
        part = pixels[top : top - (-height // down), left : left - (-width // across)]
        return np.ascontiguousarray(shrink(part, factor))

    if output == Format.NVJPEG_OUTPUT_Y:
        return [cut(decode(data, "GRAY")[..., 0])]
    if output in (
        Format.NVJPEG_OUTPUT_RGB,
        Format.NVJPEG_OUTPUT_BGR,
        Format.NVJPEG_OUTPUT_RGBI,
        Format.NVJPEG_OUTPUT_BGRI,
    ):
        rgb = cut(colours(data, jpeg, interpolate=interpolate))
        if output in (Format.NVJPEG_OUTPUT_BGR, Format.NVJPEG_OUTPUT_BGRI):
            rgb = rgb[..., ::-1]
        if output in (Format.NVJPEG_OUTPUT_RGB, Format.NVJPEG_OUTPUT_BGR):
            return [np.ascontiguousarray(rgb[..., channel]) for channel in range(3)]
        return [rgb.reshape(len(rgb), -1)]
    planes = [
        cut(plane, *step) for plane, step in zip(components(data, jpeg), jpeg.steps, strict=True)
    ]  # fmt: skip
    return packed(planes, output)


def packed(planes: list[Pixels], output: int) -> list[Pixels]:
    if output == Format.NVJPEG_OUTPUT_NV12:
        return [planes[0], np.stack(planes[1:], axis=-1).reshape(len(planes[1]), -1)]
    if output == Format.NVJPEG_OUTPUT_YUY2:
        luma = np.pad(planes[0], ((0, 0), (0, planes[0].shape[1] % 2)), mode="edge")
        words = np.stack([luma[:, ::2], planes[1], luma[:, 1::2], planes[2]], axis=-1)
        return [words.reshape(len(luma), -1)]
    if output in (Format.NVJPEG_OUTPUT_UNCHANGED, Format.NVJPEG_OUTPUT_YUV):
        return planes
    raise Refused(Status.NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED)  # not simulated


def shrink(pixels: Pixels, factor: int) -> Pixels:
    if factor == 1:
        return pixels
    height, width = pixels.shape[:2]
    more = [(0, -height % factor), (0, -width % factor), (0, 0)][: pixels.ndim]
    padded = np.pad(pixels, more, mode="edge")
    shape = (padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, *pixels.shape[2:])
    return np.rint(padded.reshape(shape).mean(axis=(1, 3))).astype(np.uint8)

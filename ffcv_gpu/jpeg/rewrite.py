"""The writer's operations on JPEGs: check them, convert them to plain baseline, decode, shrink, encode.

The backends decode for batches; this module decodes strictly and trusts no byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from ffcv_gpu.errors import DecodeError, SampleError
from ffcv_gpu.jpeg.base import NO_MEMORY, UNNAMED_CHROMA
from ffcv_gpu.jpeg.facts import JpegHeader, scan_jpeg
from ffcv_gpu.native import turbojpeg

__all__ = [
    "SUBSAMPLING_NAMES",
    "Scratch",
    "UnnamedChroma",
    "check_jpeg",
    "dct_divisor",
    "decode_rgb",
    "encode_jpeg",
    "load_compiled_resizer",
    "lossless_baseline",
    "resizer",
    "shrunk",
    "shrunk_sides",
]

Pixels = npt.NDArray[np.uint8]

#: most values of an image that is copied to float32 for resizing: 50 MB
_FLOAT_VALUES = 3 << 22
#: subsampling in `JPEG_FACTS` -> simplejpeg's name; others are encoded as 4:2:0
SUBSAMPLING_NAMES = {0: "444", 1: "422", 2: "420", 3: "440", 4: "411", 6: "Gray"}


class UnnamedChroma(DecodeError):
    """Raised for a chroma sampling that libjpeg-turbo has no name for, or for damaged tables."""


class Scratch:
    """Reusable memory: a newly allocated buffer per photo costs as much as a tenth of its decoding."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def __call__(self, size: int) -> Pixels:
        """Return uint8 (size,), valid until the next call."""
        if self._memory.size < size:
            # A new array, never a resized one: there may still be views of the old one.
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()


def check_jpeg(data: bytes, header: JpegHeader, scratch: Scratch) -> None:
    """Check a JPEG by decoding it strictly; the pixels are discarded.

    Every entropy-coded bit is read, which is where damage shows. Only the luma is computed, at an eighth of
    the size, since arithmetic cannot fail: 1.0 ms instead of 1.6 for a photo of 110 kB.

    Parameters
    ----------
    data, header
        The file, and the result of `scan_jpeg`.
    scratch : Scratch

    Raises
    ------
    DecodeError
        With libjpeg's message; its warnings count as errors. `UnnamedChroma` if only `decode_rgb` can tell
        whether it is damaged.
    """
    colours, channels = ("CMYK", 4) if header.components == 4 else ("GRAY", 1)
    size = -(-header.height // 8) * -(-header.width // 8) * channels
    _decode(data, colours, True, True, 1, 1, 8, scratch(size))


def decode_rgb(data: bytes, header: JpegHeader, out: Pixels, divisor: int = 1) -> Pixels:
    """Decode a JPEG strictly, with the accurate DCT; return uint8 (height, width, 3), a view of `out`.

    Rare chroma samplings (4:1:0) are decoded by OpenCV, as accurately but less strictly: some damage in the
    scan goes unnoticed.

    Parameters
    ----------
    data, header
        The file, and the result of `scan_jpeg`.
    out : uint8 (n,)
        Memory for at least 3 * height * width values; CMYK images and rare chroma samplings are returned in
        newly allocated memory.
    divisor : 1, 2, 4 or 8
        Divides both sides, rounding up, by libjpeg's scaled DCT. Ignored for CMYK and rare chroma samplings.

    Raises
    ------
    DecodeError
        With libjpeg's message; its warnings count as errors.
    """
    if header.components == 4:
        return _cmyk_to_rgb(_decode(data, "CMYK"))
    sides = -(-header.height // divisor), -(-header.width // divisor)
    least = (0, 0) if divisor == 1 else sides
    try:
        pixels = _decode(data, "RGB", False, False, *least, divisor, out[: 3 * sides[0] * sides[1]])
    except UnnamedChroma as error:
        sides = header.height, header.width
        pixels = _decode_unnamed(data, error)
    if pixels.shape != (*sides, 3):
        raise DecodeError(f"decoded to {pixels.shape}, but the headers say {sides[0]} x {sides[1]}")
    return pixels


def encode_jpeg(pixels: Pixels, quality: int, subsampling: int = 2) -> bytes:
    """Encode pixels as a baseline JPEG.

    Parameters
    ----------
    pixels : uint8, shape (height, width, 3)
        RGB; copied if not C-contiguous.
    quality : int
        1 to 100.
    subsampling : int
        A key of `SUBSAMPLING_NAMES`; any other value means 4:2:0.

    Raises
    ------
    SampleError
        If libjpeg cannot encode it (a side over 65500).
    """
    name = SUBSAMPLING_NAMES.get(subsampling, "420")
    try:
        data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", name)
    except ValueError as error:
        raise SampleError(
            f"cannot encode {pixels.shape[1]} x {pixels.shape[0]} pixels as JPEG ({error}); "
            "use write_mode='raw'"
        ) from error
    return data


def shrunk_sides(height: int, width: int, limit: int | None) -> tuple[int, int]:
    """Return (height, width) scaled to a longer side of at most `limit`, to the same pixel as in FFCV."""
    longer = max(height, width)
    if limit is None or longer <= limit:
        return height, width
    ratio = limit / longer
    return max(1, int(ratio * height)), max(1, int(ratio * width))


def dct_divisor(height: int, width: int, sides: tuple[int, int]) -> int:
    """Return by how much libjpeg can shrink an image while decoding without going below `sides`."""
    divisor = 1
    while divisor < 8 and -(-height // (2 * divisor)) >= sides[0] and -(-width // (2 * divisor)) >= sides[1]:
        divisor *= 2
    return divisor


def resizer(image: Pixels, target_resolution: int | None, scratch: Scratch | None = None) -> Pixels:
    """Shrink an image to a longer side of `target_resolution`, as FFCV does; return smaller ones unchanged.

    Takes and returns uint8 (height, width, 3). Sides are rounded down; the filter is OpenCV's INTER_AREA.
    """
    sides = shrunk_sides(image.shape[0], image.shape[1], target_resolution)
    return shrunk(image, sides, scratch or Scratch())


def shrunk(image: Pixels, sides: tuple[int, int], scratch: Scratch, out: Pixels | None = None) -> Pixels:
    """Shrink an image to `sides` by INTER_AREA; returns uint8 (height, width, 3).

    The result is in `out`, uint8 (bytes,), if that is given and compiled code is used. An image that already
    has these sides is returned unchanged.
    """
    height, width = image.shape[:2]
    if sides == (height, width):
        return image
    whole = height % sides[0] == 0 and width % sides[1] == 0
    if _compiled is not None and not whole and image.shape[2:] == (3,):
        target = np.empty((*sides, 3), np.uint8) if out is None else out.reshape(*sides, 3)
        return _compiled(image, target, scratch)
    import cv2

    if whole or image.size > _FLOAT_VALUES:
        return np.asarray(cv2.resize(image, sides[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    # OpenCV sums in float32 in any case, but converts each byte again whenever it uses it. This gives the
    # same bits in 1.4 ms instead of 1.9 for 750 x 600. (Whole factors have a fast path with other rounding.)
    floats = scratch(4 * image.size).view(np.float32).reshape(image.shape)
    np.copyto(floats, image)
    small = cv2.resize(floats, sides[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.convertScaleAbs(small), np.uint8)


#: compiled `shrunk` for factors that are not whole; None until `load_compiled_resizer`
_compiled: Callable[[Pixels, Pixels, Scratch], Pixels] | None = None


def load_compiled_resizer() -> None:
    """Let this process, and those forked from it, shrink by compiled code: same bits, a quarter of the time.

    Takes 0.6 s to import numba, plus some seconds to compile the first time on a machine. Forked processes
    inherit the loaded code: they import nothing and compile nothing.
    """
    global _compiled
    import cv2  # noqa: F401 - needed for whole factors; else each forked process would import it

    from ffcv_gpu.kernels import shrink_cpu

    def compiled(image: Pixels, out: Pixels, scratch: Scratch) -> Pixels:
        need = shrink_cpu.scratch_bytes(image.shape[:2], out.shape[:2])
        shrink_cpu.shrink(image, out, scratch(need))
        return out

    compiled(np.zeros((5, 5, 3), np.uint8), np.empty((3, 3, 3), np.uint8), Scratch())
    _compiled = compiled


def lossless_baseline(data: bytes) -> tuple[bytes, JpegHeader] | None:
    """Convert a progressive, multi-scan or restart-marker JPEG to plain baseline with the same coefficients.

    Returns None if no libturbojpeg is found or it cannot convert this file (decoding it then says why), or
    loses its EXIF orientation, as builds of 3.0 from before its release do.
    """
    tj = turbojpeg.library()
    if tj is None:
        return None
    try:
        plain = turbojpeg.transform(tj, data, turbojpeg.TJXOPT_OPTIMIZE)
        header, before = scan_jpeg(plain), scan_jpeg(data)
    except DecodeError:
        return None
    fine = not header.oddities and header.exif_orientation == before.exif_orientation
    return (plain, header) if fine else None


def _decode(data: bytes, *arguments: Any) -> Pixels:
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, *arguments)
    except ValueError as error:
        if NO_MEMORY in str(error):
            raise MemoryError(f"libjpeg: {error}") from error
        kind = UnnamedChroma if UNNAMED_CHROMA in str(error) else DecodeError
        raise kind(f"libjpeg: {error}") from error
    return pixels


def _decode_unnamed(data: bytes, refusal: UnnamedChroma) -> Pixels:
    """Decode by OpenCV, whose copy of libjpeg-turbo need not name the chroma sampling, or raise `refusal`."""
    import cv2

    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # too large
        found = None
    if found is None:
        raise refusal
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)


def _cmyk_to_rgb(pixels: Pixels) -> Pixels:
    """Convert to RGB as Pillow does: 255 means no ink in every JPEG, as in Adobe's."""
    light = pixels.astype(np.uint16)
    rgb: Pixels = ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)
    return rgb

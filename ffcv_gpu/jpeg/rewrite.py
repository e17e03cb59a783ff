"""What the writer does to JPEG bytes: checks them, makes them plain baseline, decodes, shrinks, encodes.

Decoding for batches is the backends' work; here every byte is doubted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from ffcv_gpu.errors import DecodeError, SampleError
from ffcv_gpu.jpeg.facts import JpegHeader, scan_jpeg
from ffcv_gpu.native import turbojpeg

__all__ = [
    "SUBSAMPLING_NAMES",
    "Scratch",
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

#: of an image that is worth a float32 copy: 50 MB
_FLOAT_VALUES = 3 << 22
#: by the number that `JPEG_FACTS` has for it; others are encoded as 4:2:0
SUBSAMPLING_NAMES = {0: "444", 1: "422", 2: "420", 3: "440", 4: "411", 6: "Gray"}


class Scratch:
    """Memory that is used again: a fresh buffer for each photo costs as much as a tenth of its decoding."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def __call__(self, size: int) -> Pixels:
        """Return uint8 (size,), valid until the next call."""
        if self._memory.size < size:
            # A new array, never a resized one: someone may still hold a view.
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()


def check_jpeg(data: bytes, header: JpegHeader, scratch: Scratch) -> None:
    """Decode a JPEG strictly and forget the pixels.

    Every entropy-coded bit is read, which is where damage shows; only the brightness is computed, at an
    eighth of the size, since arithmetic cannot fail: 1.0 ms instead of 1.6 for a photo of 110 kB.

    Parameters
    ----------
    data, header
        The file, and what `scan_jpeg` said of it.
    scratch : Scratch

    Raises
    ------
    DecodeError
        With libjpeg's words; its warnings count as errors.
    """
    colours, channels = ("CMYK", 4) if header.components == 4 else ("GRAY", 1)
    size = -(-header.height // 8) * -(-header.width // 8) * channels
    _decode(data, colours, True, True, 1, 1, 8, scratch(size))


def decode_rgb(data: bytes, header: JpegHeader, out: Pixels, divisor: int = 1) -> Pixels:
    """Return a JPEG's pixels, uint8 (height, width, 3), in `out`: strictly, with the accurate DCT.

    Parameters
    ----------
    data, header
        The file, and what `scan_jpeg` said of it.
    out : uint8 (>= 3 * height * width,)
        Memory for them; CMYK pixels come in memory of their own.
    divisor : 1, 2, 4 or 8
        Of both sides, rounded up: libjpeg's scaled DCT. Not for CMYK, which comes whole.

    Raises
    ------
    DecodeError
        With libjpeg's words; its warnings count as errors.
    """
    if header.components == 4:
        return _cmyk_to_rgb(_decode(data, "CMYK"))
    sides = -(-header.height // divisor), -(-header.width // divisor)
    least = (0, 0) if divisor == 1 else sides
    pixels = _decode(data, "RGB", False, False, *least, divisor, out[: 3 * sides[0] * sides[1]])
    if pixels.shape != (*sides, 3):
        raise DecodeError(f"decoded to {pixels.shape}, the headers say {sides[0]} x {sides[1]}")
    return pixels


def encode_jpeg(pixels: Pixels, quality: int, subsampling: int = 2) -> bytes:
    """Return pixels as baseline JPEG.

    Parameters
    ----------
    pixels : uint8, shape (height, width, 3)
        RGB; copied if not C-contiguous.
    quality : int
        1 to 100.
    subsampling : int
        A key of `SUBSAMPLING_NAMES`; any other means 4:2:0.

    Raises
    ------
    SampleError
        If libjpeg refuses (a side over 65500).
    """
    name = SUBSAMPLING_NAMES.get(subsampling, "420")
    try:
        data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", name)
    except ValueError as error:
        raise SampleError(
            f"no JPEG of {pixels.shape[1]} x {pixels.shape[0]} pixels ({error}); write_mode='raw' can hold it"
        ) from error
    return data


def shrunk_sides(height: int, width: int, limit: int | None) -> tuple[int, int]:
    """Return (height, width) with a longer side of `limit` at most: FFCV's arithmetic, to the pixel."""
    longer = max(height, width)
    if limit is None or longer <= limit:
        return height, width
    ratio = limit / longer
    return max(1, int(ratio * height)), max(1, int(ratio * width))


def dct_divisor(height: int, width: int, sides: tuple[int, int]) -> int:
    """Return by how much libjpeg can shrink an image while it decodes so that no side is below `sides`."""
    divisor = 1
    while divisor < 8 and -(-height // (2 * divisor)) >= sides[0] and -(-width // (2 * divisor)) >= sides[1]:
        divisor *= 2
    return divisor


def resizer(image: Pixels, target_resolution: int | None, scratch: Scratch | None = None) -> Pixels:
    """Shrink an image to a longer side of `target_resolution` as FFCV does; return smaller ones as they are.

    uint8 (height, width, 3); both sides are cut down to whole pixels, the filter is OpenCV's INTER_AREA.
    """
    sides = shrunk_sides(image.shape[0], image.shape[1], target_resolution)
    return shrunk(image, sides, scratch or Scratch())


def shrunk(image: Pixels, sides: tuple[int, int], scratch: Scratch, out: Pixels | None = None) -> Pixels:
    """Return uint8 (height, width, 3) with these `sides`, neither longer than before: by INTER_AREA.

    In `out`, uint8 (bytes,), if that is given and the compiled way is taken; an image of that size as it is.
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
    # OpenCV adds up in float32 either way, but converts each byte anew whenever it uses it: the same bits
    # in 1.4 ms instead of 1.9 for 750 x 600. (Whole factors have a fast path, which rounds otherwise.)
    floats = scratch(4 * image.size).view(np.float32).reshape(image.shape)
    np.copyto(floats, image)
    small = cv2.resize(floats, sides[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.convertScaleAbs(small), np.uint8)


#: `shrunk` where no factor is whole, from image to image, compiled; None until `load_compiled_resizer`
_compiled: Callable[[Pixels, Pixels, Scratch], Pixels] | None = None


def load_compiled_resizer() -> None:
    """Let this process, and those forked from it, shrink by compiled code: same bits, a quarter of the time.

    Takes 0.6 s, in which numba is imported, and some seconds once on a machine. Forked processes run what is
    in their memory already: they import nothing and compile nothing.
    """
    global _compiled
    import cv2  # noqa: F401 - what whole factors need; each forked process would load it for itself

    from ffcv_gpu.kernels import shrink_cpu

    def compiled(image: Pixels, out: Pixels, scratch: Scratch) -> Pixels:
        need = shrink_cpu.scratch_bytes(image.shape[:2], out.shape[:2])
        shrink_cpu.shrink(image, out, scratch(need))
        return out

    compiled(np.zeros((5, 5, 3), np.uint8), np.empty((3, 3, 3), np.uint8), Scratch())
    _compiled = compiled


def lossless_baseline(data: bytes) -> tuple[bytes, JpegHeader] | None:
    """Return a progressive, multi-scan or restart-marker JPEG as plain baseline with the same coefficients.

    None if no libturbojpeg is found, or it cannot do this file (then decode it, which says what is wrong).
    """
    tj = turbojpeg.library()
    if tj is None:
        return None
    try:
        plain = turbojpeg.transform(tj, data, turbojpeg.TJXOPT_OPTIMIZE)
        header = scan_jpeg(plain)
    except DecodeError:
        return None
    return None if header.oddities else (plain, header)


def _decode(data: bytes, *arguments: Any) -> Pixels:
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, *arguments)
    except ValueError as error:
        raise DecodeError(f"libjpeg: {error}") from error
    return pixels


def _cmyk_to_rgb(pixels: Pixels) -> Pixels:
    """Return (height, width, 3) as Pillow does: 255 is no ink in every JPEG, as in Adobe's."""
    light = pixels.astype(np.uint16)
    rgb: Pixels = ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)
    return rgb

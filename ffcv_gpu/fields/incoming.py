"""An image as a field receives it: JPEG bytes with their headers, or pixels."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import DecodeError, SampleError
from ffcv_gpu.fields.base import read_file
from ffcv_gpu.fields.exif import orientation_in
from ffcv_gpu.jpeg.facts import JpegHeader, exif_orientation, is_jpeg, scan_jpeg

__all__ = ["Incoming", "Pixels", "image_of"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Incoming:
    """One image: either `data` and `header` of a JPEG, or `pixels`, uint8 (height, width, 3)."""

    height: int
    width: int
    orientation: int = 0
    data: bytes = b""
    header: JpegHeader | None = None
    pixels: Any = None


def image_of(value: Any, *, turn: bool) -> Incoming:
    """Return the image for a dataset's value: an array, a PIL image, the bytes of a file or its path.

    `turn`: let OpenCV apply the EXIF orientation of files whose orientation is not known here. SampleError
    if `value` is not an image, DecodeError if it is damaged.
    """
    if isinstance(value, np.ndarray):
        return _of_pixels(value)
    if isinstance(value, (str, os.PathLike)):
        return _of_bytes(read_file(value), turn)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(value), turn)
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(value, pil.Image):
        return _of_pil(value)
    hint = ""
    if hasattr(value, "detach"):
        hint = "; for a tensor in 0..255, tensor.permute(1, 2, 0).numpy()"
        if getattr(getattr(value, "dtype", None), "is_floating_point", False):
            hint = "; for a tensor in 0..1, (255 * tensor).round().byte().permute(1, 2, 0).numpy()"
    raise SampleError(
        f"{type(value).__name__} is not an image; give a PIL image, uint8 (height, width, 3), the bytes"
        f" of an image file or its path{hint}"
    )


def _of_bytes(data: bytes, turn: bool) -> Incoming:
    if not is_jpeg(data):
        orientation = orientation_in(data)
        pixels = _decode_other(data, turn=turn and orientation is None)
        return _of_pixels(pixels, orientation or 0)
    header = scan_jpeg(data)
    return Incoming(header.height, header.width, header.exif_orientation, data, header)


def _of_pixels(pixels: npt.NDArray[Any], orientation: int = 0) -> Incoming:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise SampleError(
            f"an array of dtype {pixels.dtype} and shape {pixels.shape} is not an image; give uint8"
            f" (height, width, 3), RGB, or the bytes of an image file as bytes{_hint(pixels)}"
        )
    height, width, _ = pixels.shape
    return Incoming(height, width, orientation, pixels=pixels)


def _hint(pixels: npt.NDArray[Any]) -> str:
    """Return a hint on how to turn such an array into an image, "" if there is none."""
    last = pixels.shape[-1] if pixels.ndim == 3 else 0
    if pixels.dtype.kind == "f":
        return "; for floats in 0..1, (255 * array).round().astype(np.uint8), or ImageField(3, 'float32')"
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 1 and last == 3:
        own = ", or ImageField(3, 'uint16')" if pixels.dtype == np.uint16 else ""
        return f"; for whole numbers in 0..255, array.astype(np.uint8){own}"
    if pixels.ndim == 2 or last == 1:
        return "; ImageField(1) stores grey images"
    if last == 4:
        return "; ImageField(4) stores four channels, array[..., :3] takes three"
    return "; for (3, height, width), array.transpose(1, 2, 0)" if pixels.shape[:1] == (3,) else ""


def _of_pil(image: Any) -> Incoming:
    if image.mode in ("I", "F") or ";" in image.mode:
        raise SampleError(f"a PIL image of mode {image.mode} has more than 8 bits; scale it, convert('RGB')")
    try:
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise DecodeError(f"Pillow: {error}") from error
    exif = image.info.get("exif")
    return _of_pixels(pixels, exif_orientation(exif) if isinstance(exif, bytes) else 0)


def _decode_other(data: bytes, *, turn: bool) -> Pixels:
    """Return the pixels of a file that is not JPEG (PNG, WebP, BMP, TIFF, ...), by OpenCV."""
    import cv2

    flags = cv2.IMREAD_COLOR if turn else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise DecodeError(f"OpenCV: {error}") from error
    if found is None:
        raise DecodeError(f"{len(data)} bytes starting with {data[:8]!r} are not an image that OpenCV reads")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)

"""Functions of FFCV's C library that scripts call, implemented with OpenCV and libjpeg-turbo.

Names, arguments and pixels are FFCV's. `imdecode` and `resize_crop` can be called from Python and from
functions that numba compiles (which then call back into Python: a few microseconds per call). The loader does
not use this module.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import njit, objmode

from ffcv_gpu.errors import DecodeError, PipelineError

__all__ = ["imdecode", "read", "resize_crop"]

#: FFCV's handles of C functions -> what to call instead
HANDLES = {
    "ctypes_imdecode": "imdecode",
    "ctypes_memcopy": "memcpy",
    "ctypes_resize": "resize_crop",
    "lib": "imdecode, resize_crop or memcpy",
    "libc": "read",
    "read_c": "read",
}


def read(fileno: int, destination: Any, offset: int) -> int:
    """Read a file's bytes from `offset` on into an array.

    Parameters
    ----------
    fileno : int
        Descriptor of an open file; the file position does not change.
    destination : ndarray
        Contiguous and writable; its size is the number of bytes to read.
    offset : int
        Position in the file, bytes.

    Returns
    -------
    int
        Bytes read: ``destination.nbytes``, or fewer at the end of the file.

    Raises
    ------
    OSError
        If the file cannot be read. (FFCV's function returns -1.)
    """
    return os.preadv(fileno, [memoryview(destination).cast("B")], int(offset))


def imdecode(
    source: Any,
    dst: Any,
    source_height: Any,
    source_width: Any,
    crop_height: Any = None,
    crop_width: Any = None,
    offset_x: Any = 0,
    offset_y: Any = 0,
    scale_factor_num: Any = 1,
    scale_factor_denom: Any = 1,
    enable_crop: Any = False,
    do_flip: Any = False,
) -> int:
    """Decode a JPEG to RGB, with the fast DCT.

    Parameters
    ----------
    source : uint8 (n,)
        The JPEG file.
    dst : uint8
        Contiguous; its first ``3 * source_height * source_width`` values receive the pixels.
    source_height, source_width : int
        Size of the JPEG in pixels.
    crop_height, crop_width, offset_x, offset_y, scale_factor_num, scale_factor_denom, enable_crop, do_flip
        Only the values that mean the whole, unchanged image are supported: None or the source's size, 0, 0,
        1, 1, False, False.

    Returns
    -------
    int
        Always 0.

    Raises
    ------
    DecodeError
        If the JPEG is damaged or has another size. (FFCV leaves `dst` unchanged and reports nothing.)
    PipelineError
        If a crop, a scale or a flip is requested, or `dst` is not contiguous uint8 or too small.
    """
    whole = (crop_height is None or crop_height == source_height) and (
        crop_width is None or crop_width == source_width
    )
    plain = whole and offset_x == 0 and offset_y == 0 and scale_factor_num == scale_factor_denom
    plain = plain and not enable_crop and not do_flip
    return int(_decode_outside(source, dst, int(source_height), int(source_width), plain))


# Separate functions that keep the GIL: in a function compiled with ``nogil``, as FFCV compiles all of them,
# numba warns about every call back into Python.
@njit
def _decode_outside(source: Any, dst: Any, height: Any, width: Any, plain: Any) -> Any:
    done = 0
    with objmode(done="int64"):
        done = _decode(source, dst, height, width, plain)
    return done


def _decode(source: Any, dst: Any, height: int, width: int, plain: bool) -> int:
    import simplejpeg

    if not plain:
        raise PipelineError("imdecode decodes only whole images; crop, scale or flip the array that it fills")
    size = 3 * height * width
    if dst.dtype != np.uint8 or not dst.flags.c_contiguous or dst.size < size:
        raise PipelineError(
            f"imdecode: dst must be contiguous uint8 of at least {size} values, not {dst.dtype} {dst.shape}"
        )
    try:
        image = simplejpeg.decode_jpeg(source, "RGB", fastdct=True, buffer=dst.reshape(-1)[:size])
    except ValueError as error:
        raise DecodeError(f"imdecode: {error}") from error
    if image.shape[:2] != (height, width):
        found = f"{image.shape[1]} x {image.shape[0]}"
        raise DecodeError(f"imdecode: the JPEG is {found} pixels, not {width} x {height}")
    return 0


def resize_crop(
    source: Any, start_row: Any, end_row: Any, start_col: Any, end_col: Any, destination: Any
) -> None:
    """Resize a part of an image by OpenCV's INTER_AREA.

    Parameters
    ----------
    source : uint8 (height, width, 3)
    start_row, end_row, start_col, end_col : int
        The part: rows [start_row, end_row) and columns [start_col, end_col).
    destination : uint8 (h, w, 3)
        Receives the result; the part is resized to its shape.

    Raises
    ------
    PipelineError
        If the part is not inside the source. (FFCV then reads out of bounds.)
    """
    _resize_outside(source, int(start_row), int(end_row), int(start_col), int(end_col), destination)


@njit
def _resize_outside(source: Any, top: Any, bottom: Any, left: Any, right: Any, destination: Any) -> None:
    with objmode():
        _resize(source, top, bottom, left, right, destination)


def _resize(source: Any, top: int, bottom: int, left: int, right: int, destination: Any) -> None:
    import cv2

    height, width = source.shape[:2]
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise PipelineError(
            f"resize_crop: rows {top} to {bottom} and columns {left} to {right} are not a part of an image "
            f"of {width} x {height} pixels; pass a part inside the image"
        )
    part = np.ascontiguousarray(source[top:bottom, left:right])
    destination[...] = cv2.resize(part, destination.shape[1::-1], interpolation=cv2.INTER_AREA)


def __getattr__(name: str) -> Any:
    """Raise AttributeError that says what to call instead of FFCV's handles of C functions."""
    instead = f": there is no C library here; call {HANDLES[name]}" if name in HANDLES else ""
    raise AttributeError(f"module 'ffcv_gpu.libffcv' has no attribute {name!r}{instead}")

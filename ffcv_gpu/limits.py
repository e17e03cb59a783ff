"""How many pixels a JPEG may have: one of 600 bytes can claim 4,290 million, which are 13 GB and a minute."""

from __future__ import annotations

import os
from typing import Final

from ffcv_gpu.errors import PipelineError

__all__ = ["MAX_PIXELS", "max_pixels", "too_many_pixels"]

#: Pillow's limit: twice its MAX_IMAGE_PIXELS, where it raises an error and no longer warns
MAX_PIXELS: Final = 178_956_970
_VARIABLE: Final = "FFCV_GPU_MAX_PIXELS"


def max_pixels() -> int:
    """Return the limit: the environment's FFCV_GPU_MAX_PIXELS, else `MAX_PIXELS`.

    Raises
    ------
    PipelineError
        If the environment's is not a whole number.
    """
    said = os.environ.get(_VARIABLE, "")
    if said and not said.isdecimal():
        raise PipelineError(f"{_VARIABLE}={said!r} in the environment must be a whole number of pixels")
    return int(said) if said else MAX_PIXELS


def too_many_pixels(height: int, width: int) -> str:
    """Return why an image of this size is refused, and what to do about it; "" if it is not."""
    limit = max_pixels()
    if height * width <= limit:
        return ""
    return (
        f"{width} x {height} pixels are more than {limit:,}, the limit against decompression bombs; if you"
        f" trust it, set {_VARIABLE}={height * width} in the environment"
    )

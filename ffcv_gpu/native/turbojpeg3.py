"""libturbojpeg 3, which can decode a rectangle of a JPEG.

It is searched like `native.turbojpeg`; a 2.x library is skipped, because its API cannot crop.
"""

from __future__ import annotations

import ctypes
import functools
import os

from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.native import turbojpeg

__all__ = ["library", "required"]

#: a function that 2.x lacks
_OF_3 = ("tj3SetCroppingRegion",)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return libturbojpeg 3, or None if there is none; searched once per process.

    Raises
    ------
    BackendUnavailable
        If ``FFCV_GPU_TURBOJPEG`` names a file that is not libturbojpeg at all.
    """
    for name in turbojpeg.candidates():
        try:
            found = ctypes.CDLL(name)
            turbojpeg.addresses(found, _OF_3)
        except (OSError, AttributeError):
            continue
        return found
    turbojpeg.library()  # raises if a file was named that is not libturbojpeg of any version
    return None


def required() -> ctypes.CDLL:
    """Return libturbojpeg 3.

    Raises
    ------
    BackendUnavailable
        If there is none; the message says how to get it.
    """
    found = library()
    if found is not None:
        return found
    wanted, older = os.environ.get("FFCV_GPU_TURBOJPEG", ""), turbojpeg.library()
    why = f"FFCV_GPU_TURBOJPEG={wanted}" if wanted else "none is installed"
    if older is not None:
        why = f"{older._name} is version 2.x, which cannot crop"
    raise BackendUnavailable(
        f"libturbojpeg 3.0 or newer not found: {why}. What to do: conda install -c conda-forge "
        "'libjpeg-turbo>=3', or apt install libturbojpeg0 (from Debian 14 on), or set FFCV_GPU_TURBOJPEG to "
        'its file; jpeg_backend="turbo" does not need it'
    )

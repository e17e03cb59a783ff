"""libturbojpeg 3, which can decode a rectangle of a JPEG.

It is searched like `native.turbojpeg`; a 2.x library is skipped, because its API cannot crop.
"""

from __future__ import annotations

import ctypes
import functools

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
    if found is None:
        older = turbojpeg.library()
        why = f"{older._name} is version 2.x, which cannot crop" if older is not None else ""
        install = "conda install -c conda-forge 'libjpeg-turbo>=3', or apt install libturbojpeg0 (Debian 14)"
        raise turbojpeg.missing("3.0", install, why)
    return found

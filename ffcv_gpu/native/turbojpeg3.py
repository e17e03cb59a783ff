"""libturbojpeg 3, which can decode a rectangle of a JPEG: found, and its functions by their addresses.

It is searched like `native.turbojpeg`; a 2.x library is skipped, because its API cannot crop. The functions
are called by compiled code (`ffcv_gpu.kernels.jpeg_turbo_cpu`).
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterable

from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.native import turbojpeg

__all__ = ["Library", "library", "required"]

#: a function that 2.x lacks
_OF_3 = "tj3SetCroppingRegion"


class Library:
    """libturbojpeg 3; AttributeError if the file is an older one.

    Parameters
    ----------
    name : str
        What the system's loader takes: a file, or the name of a library.
    """

    def __init__(self, name: str) -> None:
        self.name, self._library = name, ctypes.CDLL(name)
        self.addresses((_OF_3,))

    def addresses(self, functions: Iterable[str]) -> list[int]:
        """Return where functions are in memory, for the life of the process."""
        found = (ctypes.cast(getattr(self._library, name), ctypes.c_void_p) for name in functions)
        return [pointer.value or 0 for pointer in found]  # never 0: a missing function has raised


@functools.cache
def library() -> Library | None:
    """Return libturbojpeg 3, or None if there is none; searched once per process.

    Raises
    ------
    BackendUnavailable
        If ``FFCV_GPU_TURBOJPEG`` names a file that is not libturbojpeg at all.
    """
    for name in turbojpeg.candidates():
        try:
            return Library(name)
        except (OSError, AttributeError):
            continue
    turbojpeg.library()  # raises if a file was named that is not libturbojpeg of any version
    return None


def required() -> Library:
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

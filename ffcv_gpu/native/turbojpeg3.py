"""libturbojpeg 3's decompressor under its own names: decodes a rectangle of a JPEG to the caller's memory.

It is searched like `native.turbojpeg`; a 2.x library is skipped, because its API cannot crop.
"""

from __future__ import annotations

import ctypes
import functools
import os

from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.native import turbojpeg

__all__ = ["MCU_WIDTHS", "Decompressor", "library"]

TJINIT_DECOMPRESS = 1
TJPARAM_STOPONWARNING = 0
TJPARAM_SUBSAMP = 4
TJPARAM_JPEGWIDTH = 5
TJPARAM_JPEGHEIGHT = 6
TJPARAM_FASTDCT = 10
TJPF_RGB = 0

#: `tjMCUWidth`: pixels, for TJSAMP_444, _422, _420, _GRAY, _440, _411, _441; rectangles begin at a multiple
MCU_WIDTHS = (8, 16, 16, 8, 8, 32, 8)

_HANDLE = ctypes.c_void_p
_INT = ctypes.c_int
#: calls that take microseconds: they keep the GIL, because releasing and reacquiring it costs more
_QUICK: turbojpeg.Prototypes = {
    "tj3Init": (_HANDLE, [_INT]),
    "tj3Set": (_INT, [_HANDLE, _INT, _INT]),
    "tj3Get": (_INT, [_HANDLE, _INT]),
    "tj3DecompressHeader": (_INT, [_HANDLE, ctypes.c_void_p, ctypes.c_size_t]),
    "tj3SetCroppingRegion": (_INT, [_HANDLE, turbojpeg.tjregion]),
    "tj3Destroy": (None, [_HANDLE]),
}
_LONG: turbojpeg.Prototypes = {
    "tj3Decompress8": (_INT, [_HANDLE, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, _INT, _INT]),
}


class Library:
    """libturbojpeg 3, opened twice: `quick` for calls that keep the GIL, `long` for calls that release it."""

    def __init__(self, name: str) -> None:
        self.long, self.quick = ctypes.CDLL(name), ctypes.PyDLL(name)
        self.name = name
        turbojpeg.declare(self.long, _LONG)
        turbojpeg.declare(self.quick, _QUICK)


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


class Decompressor:
    """One handle, for one image: tables stay in it, and a later image that lacks its own would use them.

    Creating and closing it takes 2 microseconds. Only one thread may use it at a time.

    Parameters
    ----------
    found : Library
    fast : bool
        True: libjpeg's ifast DCT; False: islow.
    """

    __slots__ = ("_handle", "_library")

    def __init__(self, found: Library, fast: bool) -> None:
        quick = found.quick
        self._library, self._handle = found, quick.tj3Init(TJINIT_DECOMPRESS)
        if not self._handle:
            raise MemoryError("tj3Init")
        quick.tj3Set(self._handle, TJPARAM_STOPONWARNING, 1)
        if fast:
            quick.tj3Set(self._handle, TJPARAM_FASTDCT, 1)

    def close(self) -> None:
        """Release the handle, which must not be used any more."""
        self._library.quick.tj3Destroy(self._handle)

    def header(self, address: int, size: int) -> tuple[int, int, int] | None:
        """Return height, width and TJSAMP (-1: unknown) of the JPEG at `address`; None on failure."""
        handle, get = self._handle, self._library.quick.tj3Get
        if self._library.quick.tj3DecompressHeader(handle, address, size):
            return None
        return get(handle, TJPARAM_JPEGHEIGHT), get(handle, TJPARAM_JPEGWIDTH), get(handle, TJPARAM_SUBSAMP)

    def crop(self, y: int, x: int, height: int, width: int) -> bool:
        """Set the rectangle to decode, in place of the whole image; False, without effect, if refused.

        `x` is a multiple of the iMCU's width; a height or width of 0 means the rest of the image.
        """
        region = turbojpeg.tjregion(x, y, width, height)
        failed: int = self._library.quick.tj3SetCroppingRegion(self._handle, region)
        return not failed

    def decode(self, address: int, size: int, to: int, pitch: int) -> bool:
        """Write the rectangle to address `to` as rows of RGB, `pitch` bytes apart; False on failure.

        Warnings count as errors. The GIL is released.
        """
        failed: int = self._library.long.tj3Decompress8(self._handle, address, size, to, pitch, TJPF_RGB)
        return not failed

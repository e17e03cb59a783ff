"""libturbojpeg 3 by ctypes: the few calls that decode, verbatim names."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = [
    "TJINIT_DECOMPRESS",
    "TJPARAM_FASTDCT",
    "TJPARAM_JPEGHEIGHT",
    "TJPARAM_JPEGWIDTH",
    "TJPF_RGB",
    "library",
]

TJINIT_DECOMPRESS, TJPF_RGB = 1, 0
TJPARAM_JPEGWIDTH, TJPARAM_JPEGHEIGHT, TJPARAM_FASTDCT = 5, 6, 10

NAMES = ("libturbojpeg.so.0", "libturbojpeg.so", "libturbojpeg.dylib")
HANDLE, SIZE = ctypes.c_void_p, ctypes.c_size_t
PROTOTYPES = {
    "tj3Init": (HANDLE, [ctypes.c_int]),
    "tj3Set": (ctypes.c_int, [HANDLE, ctypes.c_int, ctypes.c_int]),
    "tj3Get": (ctypes.c_int, [HANDLE, ctypes.c_int]),
    "tj3DecompressHeader": (ctypes.c_int, [HANDLE, ctypes.c_char_p, SIZE]),
    "tj3Decompress8": (
        ctypes.c_int, [HANDLE, ctypes.c_char_p, SIZE, ctypes.c_void_p, ctypes.c_int, ctypes.c_int],
    ),
    "tj3GetErrorStr": (ctypes.c_char_p, [HANDLE]),
}  # fmt: skip


def library() -> ctypes.CDLL:
    """Return libturbojpeg 3 or newer: the file that FFCV_GPU_TURBOJPEG names, else the system's or conda's.

    Raises
    ------
    OSError
        If there is none, or only an older one.
    """
    wanted = os.environ.get("FFCV_GPU_TURBOJPEG", "")
    prefixes = filter(None, (os.environ.get("CONDA_PREFIX"), sys.prefix))
    usual = [*NAMES, *(os.path.join(prefix, "lib", name) for prefix in prefixes for name in NAMES)]
    for name in [wanted] if wanted else usual:
        try:
            found = ctypes.CDLL(name)
            for function, (restype, argtypes) in PROTOTYPES.items():
                pointer = getattr(found, function)
                pointer.restype, pointer.argtypes = restype, argtypes
        except (OSError, AttributeError):
            continue
        return found
    raise OSError("no libturbojpeg 3 found")

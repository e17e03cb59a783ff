"""libturbojpeg: where it is, its lossless transform under its own names, and functions by their addresses.

This is the part of the API that 2.x and 3.x share; `native.turbojpeg3` finds a 3.x. Decoding is done by
compiled code (`ffcv_gpu.kernels.jpeg_turbo_cpu`), which calls the functions by their addresses.

The search order is: the file named by ``FFCV_GPU_TURBOJPEG`` (``off``: do not use libturbojpeg), the
system's loader, the folders of a conda environment. simplejpeg, which decodes and encodes for us, contains
a copy of libjpeg-turbo that is not accessible from outside.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ffcv_gpu.errors import BackendUnavailable, DecodeError

__all__ = [
    "TJXOPT_OPTIMIZE",
    "addresses",
    "candidates",
    "library",
    "missing",
    "required",
    "tjregion",
    "transform",
]

TJXOP_NONE = 0
#: of 3.x; 2.x ignores it
TJXOPT_OPTIMIZE = 256

_NAMES = ("libturbojpeg.so.0", "libturbojpeg.so", "libturbojpeg.dylib", "turbojpeg.dll")


class tjregion(ctypes.Structure):
    """A rectangle, in pixels."""

    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_int), ("w", ctypes.c_int), ("h", ctypes.c_int))


class tjtransform(ctypes.Structure):
    """One transform of `tjTransform`."""

    _fields_ = (
        ("r", tjregion),
        ("op", ctypes.c_int),
        ("options", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("customFilter", ctypes.c_void_p),
    )


_HANDLE = ctypes.c_void_p
_BYTES = ctypes.POINTER(ctypes.c_ubyte)
#: function name -> result type and argument types
_PROTOTYPES: Mapping[str, tuple[Any, list[Any]]] = {
    "tjInitTransform": (_HANDLE, []),
    "tjTransform": (
        ctypes.c_int,
        [
            _HANDLE,
            ctypes.c_char_p,
            ctypes.c_ulong,
            ctypes.c_int,
            ctypes.POINTER(_BYTES),
            ctypes.POINTER(ctypes.c_ulong),
            ctypes.POINTER(tjtransform),
            ctypes.c_int,
        ],
    ),
    "tjGetErrorStr2": (ctypes.c_char_p, [_HANDLE]),
    "tjDestroy": (ctypes.c_int, [_HANDLE]),
    "tjFree": (None, [_BYTES]),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return libturbojpeg with its prototypes set, or None if there is none; searched once per process.

    Raises
    ------
    BackendUnavailable
        If ``FFCV_GPU_TURBOJPEG`` names a file that is not libturbojpeg 2.0 or newer.
    """
    wanted = os.environ.get("FFCV_GPU_TURBOJPEG", "")
    for name in candidates():
        found = _load(name)
        if found is not None:
            return found
    if wanted and wanted.lower() != "off":
        raise BackendUnavailable(
            f"FFCV_GPU_TURBOJPEG={wanted} is not libturbojpeg 2.0 or newer; set it to the library's file, or "
            "to 'off'"
        )
    return None


def required() -> ctypes.CDLL:
    """Return libturbojpeg.

    Raises
    ------
    BackendUnavailable
        If there is none; the message says how to get it.
    """
    found = library()
    if found is None:
        install = "apt install libturbojpeg0 or libturbojpeg, or conda install -c conda-forge libjpeg-turbo"
        raise missing("2.0", install)
    return found


def missing(version: str, install: str, why: str = "") -> BackendUnavailable:
    """Return the error of a library that is not found; `install` says how to get it."""
    wanted = os.environ.get("FFCV_GPU_TURBOJPEG", "")
    why = why or (f"FFCV_GPU_TURBOJPEG={wanted}" if wanted else "none is installed")
    return BackendUnavailable(
        f"libturbojpeg {version} or newer not found: {why}. What to do: {install}, or set FFCV_GPU_TURBOJPEG "
        'to its file; jpeg_backend="turbo" does not need it'
    )


def candidates() -> list[str]:
    """Return the names by which to try to load libturbojpeg, best first; empty if it is switched off."""
    wanted = os.environ.get("FFCV_GPU_TURBOJPEG", "")
    if wanted:
        return [] if wanted.lower() == "off" else [wanted]
    prefixes = dict.fromkeys(filter(None, (os.environ.get("CONDA_PREFIX"), sys.prefix)))
    return [*_NAMES, *(str(Path(prefix, "lib", name)) for prefix in prefixes for name in _NAMES)]


def _load(name: str) -> ctypes.CDLL | None:
    try:
        found = ctypes.CDLL(name)
        for function, (restype, argtypes) in _PROTOTYPES.items():
            pointer = getattr(found, function)
            pointer.restype, pointer.argtypes = restype, argtypes
    except (OSError, AttributeError):
        return None
    return found


def addresses(found: ctypes.CDLL, functions: Iterable[str]) -> list[int]:
    """Return where functions of a library are in memory, for the life of the process.

    AttributeError if it lacks one.
    """
    pointers = (ctypes.cast(getattr(found, name), ctypes.c_void_p) for name in functions)
    return [pointer.value or 0 for pointer in pointers]


def transform(tj: ctypes.CDLL, jpeg: bytes, options: int) -> bytes:
    """Return `jpeg` rewritten by ``tjTransform`` from the same coefficients, with all markers kept.

    Without further options, the result is one baseline scan without restart markers.

    Raises
    ------
    DecodeError
        With the library's own message; warnings count as errors.
    """
    handle = tj.tjInitTransform()
    out, size = _BYTES(), ctypes.c_ulong(0)
    wish = tjtransform(op=TJXOP_NONE, options=options)
    try:
        failed = tj.tjTransform(
            handle, jpeg, len(jpeg), 1, ctypes.byref(out), ctypes.byref(size), ctypes.byref(wish), 0
        )
        if failed:
            words = tj.tjGetErrorStr2(handle).decode("utf-8", "replace")
            raise DecodeError(f"libturbojpeg cannot transform this JPEG: {words}")
        return ctypes.string_at(out, size.value)
    finally:
        tj.tjFree(out)  # NULL after a failure, which is allowed
        tj.tjDestroy(handle)

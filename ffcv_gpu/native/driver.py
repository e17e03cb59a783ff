"""Queries of the CUDA driver's library: the CUDA version it supports, and the number of devices.

The Makefile also runs this file as a script, before anything is installed: it prints the install extra that
fits (``cuda13``, ``cuda12``, or nothing). So it imports only the standard library.
"""

from __future__ import annotations

import ctypes

__all__ = ["device_count", "driver_version", "install_extra", "lacks_video"]


def _libcuda() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    for name, argtypes in (
        ("cuDriverGetVersion", [ctypes.POINTER(ctypes.c_int)]),
        ("cuInit", [ctypes.c_uint]),
        ("cuDeviceGetCount", [ctypes.POINTER(ctypes.c_int)]),
    ):
        function = getattr(library, name)
        function.argtypes = argtypes
        function.restype = ctypes.c_int
    return library


def driver_version() -> int:
    """Return the newest CUDA version the driver supports, as 13000 for 13.0; 0 without a driver.

    Needs no device and does not initialise CUDA, so it is safe before a fork.
    """
    library = _libcuda()
    version = ctypes.c_int(0)
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return 0
    return version.value


def device_count() -> int:
    """Return the number of usable CUDA devices; 0 without a driver or a device.

    Initialises CUDA in this process: a child forked afterwards cannot use it.
    """
    library = _libcuda()
    count = ctypes.c_int(0)
    if library is None or library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def install_extra() -> str:
    """Return the install extra for this machine's driver: "cuda13", "cuda12", or "" if none fits."""
    version = driver_version()
    return "cuda13" if version >= 13000 else "cuda12" if version >= 12000 else ""


def lacks_video() -> bool:
    """Return whether there is a driver, but without the library by which nvJPEG reaches the JPEG engines.

    So it is in containers started with the usual driver capabilities, "compute" and "utility".
    """
    if _libcuda() is None:
        return False
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return True
    return False


if __name__ == "__main__":
    print(install_extra())

"""The page cache, for one file: how much of the file is in memory, and dropping it."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

__all__ = ["drop", "resident_share"]


def resident_share(path: Path) -> float:
    """Return the share of a file's pages that are in memory, by mincore.

    (Reading with RWF_NOWAIT would tell as well, but triggers read-ahead.)
    """
    size = path.stat().st_size
    if not size:
        return 0.0
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
        where = np.frombuffer(mapped, np.uint8)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(where.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
        )
        del where  # a map cannot be closed while a view of it exists
        if failed:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    return float((pages & 1).mean())


def drop(path: Path) -> float:
    """Drop a file from the page cache; returns the share that is still in memory.

    Pages that a process has mapped stay. Dirty pages would stay too, so they are written first.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return resident_share(path)

"""Memory that the writer shares with its worker processes, so that payloads are never pickled."""

from __future__ import annotations

import mmap
import os
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SharedMap"]


class SharedMap:
    """Zeroed bytes shared by this process and its children; only pages that are touched take memory.

    Parameters
    ----------
    size_bytes : int
    inherited : bool
        True: children are forked and inherit the map. False: children are new processes, and pickling the
        map passes them the descriptor of a file in memory.
    """

    def __init__(self, size_bytes: int, *, inherited: bool) -> None:
        self.size_bytes = size_bytes
        if inherited:
            # Anonymous: no limit of /dev/shm (64 MB in a container) or of file sizes applies.
            flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
            self._map = mmap.mmap(-1, size_bytes, flags=flags)
        else:
            self._fd = os.memfd_create("ffcv_gpu")
            weakref.finalize(self, os.close, self._fd)
            os.ftruncate(self._fd, size_bytes)
            self._map = mmap.mmap(self._fd, size_bytes)

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """uint8 (size_bytes,), a view that keeps the memory alive."""
        return np.frombuffer(self._map, np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (reduction.DupFd(self._fd), self.size_bytes)


def _attach(duplicate: Any, size_bytes: int) -> SharedMap:
    fd = duplicate.detach()
    attached = SharedMap.__new__(SharedMap)
    attached.size_bytes = size_bytes
    attached._map = mmap.mmap(fd, size_bytes)
    os.close(fd)
    return attached

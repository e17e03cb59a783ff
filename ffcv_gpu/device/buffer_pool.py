"""Host memory that comes back when its last view is gone, and is used again."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

__all__ = ["LINE", "BufferPool"]

#: bytes of a cache line
LINE = 64


class _Buffer:
    """Memory, of which `size_bytes` are handed out, where `interface` says."""

    __slots__ = ("interface", "memory", "size_bytes")

    def __init__(self, size_bytes: int, begin: int | None) -> None:
        spare = 0 if begin is None else 2 * LINE
        self.memory = np.empty(max(size_bytes, 1) + spare, np.uint8)
        self.size_bytes, self.interface = size_bytes, self.memory[:size_bytes].__array_interface__
        if begin is not None:
            address = self.interface["data"][0]
            self.interface["data"] = (address + -address % LINE + begin, False)


class _Lease:
    """Stands between a pool's buffer and the arrays made of it: dies with the last of them."""

    __slots__ = ("__array_interface__", "_buffer", "_pool")

    def __init__(self, pool: BufferPool, buffer: _Buffer) -> None:
        self._pool, self._buffer, self.__array_interface__ = pool, buffer, buffer.interface

    def __del__(self) -> None:
        self._pool._give_back(self._buffer)


class BufferPool:
    """Buffers that return by themselves when no array, view or tensor refers to them any more.

    A fresh batch of 256 x 3 x 224 x 224 float32 costs 41-80 ms of page faults, a reused one 3.7 ms
    (measured on 2 cores). A batch that the consumer keeps is simply never reused. Any thread may call, and
    a child after a fork, whose pool is empty.

    Parameters
    ----------
    keep : int or None
        Free buffers kept per size (None: any number); more are given back to the system.
    keep_bytes : int, optional
        Free bytes kept in all; of more, those that have lain free longest are given back.
    begin : int, optional
        Where buffers begin, in bytes behind a multiple of 64; wherever they come to lie, if not given.
    """

    def __init__(self, keep: int | None, keep_bytes: int | None = None, begin: int | None = None) -> None:
        self._keep, self._keep_bytes, self._begin = keep, keep_bytes, begin
        self._renew()
        _pools.add(self)

    def _renew(self) -> None:
        """Begin anew: in a forked child, another thread may have held the lock and be gone."""
        self._lock = threading.Lock()
        #: by size, those that have lain longest first
        self._free: dict[int, deque[_Buffer]] = {}
        #: all of them, likewise (a dict, for its order)
        self._all: dict[_Buffer, None] = {}
        self._free_bytes = 0
        self._returned: deque[_Buffer] = deque()

    def take(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Return uint8 (size_bytes,), uninitialised; the memory is the caller's until its last view dies."""
        with self._lock:
            buffer = self._pick(size_bytes, newest=True) if size_bytes in self._free else None
        self._settle()
        return np.asarray(_Lease(self, buffer or _Buffer(size_bytes, self._begin)))

    def _pick(self, size_bytes: int, *, newest: bool) -> _Buffer:
        """Take a free buffer out, the one whose memory is likeliest in cache or the one least; locked."""
        free = self._free[size_bytes]
        buffer = free.pop() if newest else free.popleft()
        if not free:
            del self._free[size_bytes]
        del self._all[buffer]
        self._free_bytes -= buffer.memory.nbytes
        return buffer

    def _give_back(self, buffer: _Buffer) -> None:
        # Called wherever the last view dies: by the garbage collector perhaps, in a thread that is just
        # holding the lock. So it may not wait for it.
        self._returned.append(buffer)
        self._settle()

    def _settle(self) -> None:
        """Sort in what came back, unless somebody else holds the lock, who will do it after that."""
        while self._returned and self._lock.acquire(blocking=False):
            try:
                self._sort_in()
            finally:
                self._lock.release()

    def _sort_in(self) -> None:
        """Keep what came back, within the bounds; locked."""
        while self._returned:
            buffer = self._returned.popleft()
            if self._keep is not None and len(self._free.get(buffer.size_bytes, ())) >= self._keep:
                continue
            self._free.setdefault(buffer.size_bytes, deque()).append(buffer)
            self._all[buffer] = None
            self._free_bytes += buffer.memory.nbytes
            while self._keep_bytes is not None and self._free_bytes > self._keep_bytes:
                self._pick(next(iter(self._all)).size_bytes, newest=False)

    def trim(self) -> None:
        """Give all free buffers back to the system (sizes change between epochs)."""
        with self._lock:
            self._sort_in()
            self._free.clear()
            self._all.clear()
            self._free_bytes = 0
        self._settle()

    def free_bytes(self) -> int:
        """Return how many bytes lie free in the pool."""
        with self._lock:
            self._sort_in()
            found = self._free_bytes
        self._settle()
        return found


_pools: weakref.WeakSet[BufferPool] = weakref.WeakSet()


def _renew_all() -> None:
    for pool in _pools:
        pool._renew()


os.register_at_fork(after_in_child=_renew_all)

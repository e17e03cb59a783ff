"""Finished batches on their way from an epoch's thread to its consumer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

__all__ = ["Handoff"]

#: what follows the last batch
END = object()


class Handoff:
    """A bounded queue that can be closed from either end.

    The consumer is usually the main thread, where Ctrl-C raises in the middle of any Python code: one in a
    thousand leaves a `threading.Condition` locked forever. So it waits in C, and takes only locks made in C.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._error: BaseException | None = None
        self._closed = False
        self._lock = threading.RLock()  # re-entrant: the epoch may be collected while this thread holds it
        self._taken = threading.Lock()  # released when there may be room again
        self._taken.acquire()

    def put(self, items: Sequence[Any]) -> bool:
        """Wait while the queue is full, then add all `items`; return False if it has been closed."""
        while True:
            with self._lock:
                if self._closed:
                    return False
                if self._items.qsize() < self._room:
                    for item in items:
                        self._items.put(item)
                    return True
            self._taken.acquire(timeout=1.0)  # a second Ctrl-C may stop who would release it

    def get(self) -> Any:
        """Wait for the next batch; raise StopIteration at the end, or the first exception of the epoch."""
        item = self._items.get()
        if item is not END:
            self._release()
            return item
        self._items.put(END)  # for whoever else waits, and for the next call
        error, self._error = self._error, None
        raise StopIteration if error is None else error

    def close(self, error: BaseException | None = None, *, drop: bool = False) -> None:
        """Accept no more batches; `drop` discards those that wait. Only the first call's `error` counts."""
        with self._lock:
            if not self._closed:
                self._closed, self._error = True, error
            with suppress(Empty):  # another thread may take one
                while drop and not self._items.empty():
                    self._items.get_nowait()
            self._items.put(END)
        self._release()

    def _release(self) -> None:
        if self._taken.locked():
            with suppress(RuntimeError):  # another thread has just done it
                self._taken.release()

    def closed(self) -> bool:
        """Return whether either side has called `close`."""
        return self._closed

"""Threads that all calls share: made when first needed, asleep in between."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["shared_out"]

T = TypeVar("T")


class _Helpers:
    """The threads, at most one for each CPU of the machine; a caller that finds none free does all itself."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin without threads: in a forked child there are none, and locks may be held by such."""
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def get(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ffcv_gpu-decode")
            return self._threads


_helpers = _Helpers()
os.register_at_fork(after_in_child=_helpers.renew)


def shared_out(things: Iterable[T], work: Callable[[Iterator[T]], None], workers: int) -> None:
    """Let this thread and helpers take things, each the next one left, until none is.

    Parameters
    ----------
    things : iterable
        In the order in which they are handed out; largest first, all end at about the same time.
    work : callable
        Called once in each thread, with what the thread may take from.
    workers : int
        Threads at most, this one among them.

    Raises
    ------
    Whatever `work` raises; the rest of the things is then left. Nobody is at work any more, in any case.
    """
    left = deque(things)

    def taken() -> Iterator[T]:
        while left:
            try:
                thing = left.popleft()
            except IndexError:  # another thread was faster
                return
            yield thing

    def run() -> None:
        try:
            work(taken())
        except BaseException:
            left.clear()
            raise

    helpers: list[Future[None]] = []
    try:
        for _ in range(min(workers, len(left)) - 1):
            helpers.append(_helpers.get().submit(run))
        run()
    finally:
        left.clear()  # there may be something in it only if this thread failed
        begun = [helper for helper in helpers if not helper.cancel()]  # the others found no thread free
        errors = [error for helper in begun if (error := helper.exception()) is not None]
    for error in errors:
        raise error

"""Threads that all calls share: made when first needed, asleep in between."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

__all__ = ["InOrder", "shared_out"]

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


class InOrder:
    """Pieces of work that helpers do one after the other, while this thread does other things in between.

    To be used in a with block; at its end, nothing more is begun and nobody is at work.

    Parameters
    ----------
    work : callable
        Does the piece of a number, in any thread.
    pieces : int
    helpers : int
        Threads besides this one, at most.
    """

    def __init__(self, work: Callable[[int], None], pieces: int, helpers: int) -> None:
        self._work, self._pieces, self._next = work, pieces, 0
        self._count, self._helpers = min(helpers, pieces), list[Future[None]]()
        self._busy: set[int] = set()
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._helpers.append(_helpers.get().submit(self._run, self._pieces))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def finish(self, pieces: int) -> None:
        """Return when so many, from the first on, are done; this thread does those that nobody has begun.

        Raises
        ------
        Whatever a piece raised; the rest is then left.
        """
        self._run(pieces)
        with self._changed:
            self._changed.wait_for(lambda: min(self._busy, default=pieces) >= pieces)
            if self._error is not None:
                raise self._error

    def _run(self, pieces: int) -> None:
        while (piece := self._taken(pieces)) is not None:
            error = None
            try:
                self._work(piece)
            except BaseException as caught:  # noqa: BLE001 (it belongs to the thread that waits)
                error = caught
            with self._changed:
                self._busy.discard(piece)
                if error is not None:
                    self._error, self._next = self._error or error, self._pieces
                self._changed.notify_all()

    def _taken(self, pieces: int) -> int | None:
        with self._changed:
            if self._next >= pieces:
                return None
            self._busy.add(self._next)
            self._next += 1
            return self._next - 1

    def _close(self) -> None:
        with self._changed:
            self._next = self._pieces
        for helper in self._helpers:  # not by `_busy`, where an interrupt may leave a piece of this thread
            if not helper.cancel():
                helper.exception()

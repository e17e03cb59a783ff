"""A thread pool that all calls share: created on first use, idle between calls."""

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

#: what a pool says of work after Python has ended all pools: other threads may go on
_POOLS_ENDED = "cannot schedule new futures"


class _Helpers:
    """The pool, with at most one thread per CPU; if none is free, the caller does all the work itself."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Start without threads: a forked child has none, and the lock may be held by one that is gone."""
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def get(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ffcv_gpu-decode")
            return self._threads

    def submit(self, work: Callable[[], None], stop: Callable[[], object]) -> Future[None] | None:
        """Let a thread of the pool call `work`; None once the main thread has ended, and with it all pools.

        If no thread can be started, call `stop`, which ends all work, and raise once no thread is at work.
        """
        threads = self.get()
        try:
            return threads.submit(work)
        except BaseException as error:
            if isinstance(error, RuntimeError) and _POOLS_ENDED in str(error):
                return None
            stop()
            with self._lock:
                self._threads = None
            threads.shutdown()  # the pool keeps the work, and a thread that becomes free does it
            raise


_helpers = _Helpers()
os.register_at_fork(after_in_child=_helpers.renew)


def shared_out(things: Iterable[T], work: Callable[[Iterator[T]], None], workers: int) -> None:
    """Let this thread and helpers process `things`; each takes the next one until none is left.

    On return, also by an exception, no thread is at work any more.

    Parameters
    ----------
    things : iterable
        Handed out in this order; with the largest first, all threads finish at about the same time.
    work : callable
        Called once per thread, with an iterator over the things that the thread takes.
    workers : int
        Maximum number of threads, including this one.

    Raises
    ------
    Whatever `work` raises; the remaining things are then skipped.
    """
    left, works = deque(things), [work]

    def taken() -> Iterator[T]:
        while left:
            try:
                thing = left.popleft()
            except IndexError:  # another thread was faster
                return
            yield thing

    def run() -> None:
        try:
            works[0](taken())
        except BaseException:
            left.clear()
            raise

    helpers: list[Future[None]] = []
    try:
        for _ in range(min(workers, len(left)) - 1):
            helper = _helpers.submit(run, left.clear)
            if helper is None:
                break
            helpers.append(helper)
        run()
    finally:
        left.clear()  # not empty only if this thread failed
        begun = [helper for helper in helpers if not helper.cancel()]  # the others found no free thread
        errors = [error for helper in begun if (error := helper.exception()) is not None]
        works.clear()  # a pool's thread keeps `run` for a moment longer, and must not keep what `work` has
    for error in errors:
        raise error


class InOrder:
    """Pieces of work that helpers start in order, while this thread does other things in between.

    Use it in a with block: when the block ends, no piece is started any more and no thread is at work.

    Parameters
    ----------
    work : callable
        ``work(piece)`` does piece number `piece`, in any thread.
    pieces : int
        Number of pieces.
    helpers : int
        Maximum number of threads besides this one.
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
                helper = _helpers.submit(lambda: self._run(self._pieces), self._stop)
                if helper is None:
                    break
                self._helpers.append(helper)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def finish(self, pieces: int) -> None:
        """Block until the first `pieces` are done; this thread does those that no helper has started.

        Raises
        ------
        Whatever a piece raised; the remaining pieces are then skipped.
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
            except BaseException as caught:  # noqa: BLE001 (raised in the thread that waits)
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

    def _stop(self) -> None:
        with self._changed:
            self._next = self._pieces

    def _close(self) -> None:
        self._stop()
        for helper in self._helpers:  # not by `_busy`: after an interrupt it may keep a piece of this thread
            if not helper.cancel():
                helper.exception()

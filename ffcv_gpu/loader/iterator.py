"""One epoch: a thread that prepares batches, and an iterator that returns them in order."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.handoff import Handoff
from ffcv_gpu.loader.job import Made
from ffcv_gpu.trace import StageClock

__all__ = ["Batch", "EpochIterator", "Run"]

logger = logging.getLogger("ffcv_gpu.loader.loader")

#: seconds that closing waits for a thread that is busy with a batch, before it gives up with a warning
PATIENCE = 10.0
#: prefix of the names of all threads of this library
THREADS = "ffcv_gpu-"


#: `now`: True while the garbage collector runs in this thread
_collecting = threading.local()


def _note_collection(phase: str, _: Any) -> None:
    _collecting.now = phase == "start"


gc.callbacks.append(_note_collection)


class Batch(Protocol):
    """A batch that has been started, or several that are made as one."""

    @property
    def index(self) -> int:
        """The number of the first one in the epoch."""

    @property
    def last(self) -> int:
        """The number of the last one."""

    def results(self) -> Iterator[Made]:
        """Wait and yield the batches in order; raise the first exception."""

    def cancel(self) -> None:
        """Cancel what has not started."""

    def settle(self) -> None:
        """Wait until nothing of it is in flight; called after `cancel`, once the workers have ended."""


class Run(ABC):
    """What the epoch's threads share; has no reference to the iterator, whose collection ends the epoch.

    Parameters
    ----------
    batches : int
    bundle : int
        How many of them are made as one.
    workers : int
        Threads of `executor`.
    in_flight : int
        Bundles started at once.
    ahead : int
        Batches finished ahead of the consumer, at least 2; ``in_flight - 1`` more bundles are started.
    clock : StageClock
    epoch : int
    """

    def __init__(
        self,
        batches: int,
        bundle: int,
        workers: int,
        in_flight: int,
        ahead: int,
        clock: StageClock,
        epoch: int,
    ) -> None:
        self.handoff = Handoff(max(1, ahead - 1))
        self.process = os.getpid()
        self.clock, self.epoch = clock, epoch
        self._batches, self._bundle, self._in_flight = batches, bundle, in_flight
        self._begun: deque[Batch] = deque()
        self.executor = ThreadPoolExecutor(workers, thread_name_prefix=f"{THREADS}worker")
        self._thread = threading.Thread(target=self._conduct, name=f"{THREADS}conductor", daemon=True)

    @abstractmethod
    def begin(self, index: int, count: int) -> Batch:
        """Start `count` batches as one.

        Called in the epoch's thread, like all methods but `close` and `interrupt`.
        """

    @abstractmethod
    def passed(self, index: int) -> None:
        """Note that a batch and all before it are finished."""

    @abstractmethod
    def interrupt(self) -> None:
        """Abort all waits for the disk; called in any thread."""

    @abstractmethod
    def release(self) -> None:
        """Release the epoch's resources; nothing is in flight any more."""

    def start(self) -> None:
        """Start the epoch's thread; only once it is certain that `close` will be called."""
        with ctrl_c_waits():
            self._thread.start()

    def _conduct(self) -> None:
        try:
            self._make_batches()
        except BaseException as error:  # noqa: BLE001 (raised in the training loop)
            self.handoff.close(error)
        else:
            self.handoff.close()
        self._release()

    def _make_batches(self) -> None:
        begun = self._begun
        try:
            for index, end in pairwise(self._edges()):
                begun.append(self.begin(index, end - index))
                full = len(begun) >= self._in_flight or (index == 0 and self._bundle > 1)
                if full and not self._hand_over():
                    return
            while begun:
                if not self._hand_over():
                    return
        finally:
            for batch in begun:
                batch.cancel()

    def _edges(self) -> list[int]:
        """Return where each bundle begins, and where the last one ends.

        The first batch is made and handed over before the rest of its bundle: the consumer waits for it.
        """
        edges = {0, min(1, self._batches), *range(0, self._batches, self._bundle), self._batches}
        return sorted(edges)

    def _hand_over(self) -> bool:
        """Wait for the oldest bundle and hand it over; return False if the epoch has been closed."""
        batch, made = self._begun[0], list[Made]()
        try:  # if the second one raises, the first one is handed over
            for one in batch.results():
                made.append(one)
        except BaseException:
            self.handoff.put(made)
            raise
        self._begun.popleft()
        self.passed(batch.last)
        with self.clock.of_batch(batch.index, self.epoch).span("ahead"):
            return self.handoff.put(made)

    def _release(self) -> None:
        """Wait for the workers and the GPU, then release the epoch's resources."""
        self.interrupt()
        self.executor.shutdown(wait=True, cancel_futures=True)
        for batch in self._begun:
            batch.settle()
        self._begun.clear()  # they may refer to this object: not for the garbage collector to find
        self.release()

    def close(self) -> None:
        """Stop the epoch's threads; return once they have ended, or after `PATIENCE` seconds.

        Returns at once in the garbage collector and in a thread of this library.
        """
        if os.getpid() != self.process:
            return  # a forked child: threads and locks are the parent's
        self.handoff.close(drop=True)
        self.interrupt()
        if self._thread.ident is None:  # it was never started
            self._release()
            return
        # A dropped epoch may be collected in any thread: one of its own must not wait for itself, nor one
        # that the garbage collector interrupts, which may hold a lock that the epoch's threads need.
        own = threading.current_thread().name.startswith(THREADS)
        if not own and not getattr(_collecting, "now", False):
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                logger.warning(
                    "the loader's thread is still busy with a batch %d s after its epoch was closed (in a "
                    "pipeline step, or in a read that hangs); it is left to finish on its own",
                    PATIENCE,
                )


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the with block.

    In the middle of `Thread.start` it may leave the thread waiting for a lock that nobody releases any more,
    or come out as "RuntimeError: release unlocked lock" (both seen, on Python 3.11).
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    pressed: list[Any] = []
    signal.signal(signal.SIGINT, lambda *its: pressed.append(its))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        handler(*pressed[0])


class EpochIterator(Iterator[tuple[Any, ...]]):
    """The batches of one epoch, in order.

    Its threads stop at the end of the epoch, on `close`, on an exception, and when it is garbage-collected
    (so an early ``break`` needs no cleanup).
    """

    def __init__(self, run: Run, progress: Progress) -> None:
        self._run, self._progress = run, progress
        self.close = weakref.finalize(self, run.close)
        self._run.start()

    def __iter__(self) -> EpochIterator:
        return self

    def __len__(self) -> int:
        """Batches left."""
        return len(self._progress.course) - self._progress.handed

    def __next__(self) -> tuple[Any, ...]:
        if os.getpid() != self._run.process:
            raise PipelineError(
                "this epoch was started by another process, which has its threads; after a fork, start a new "
                "epoch in the child: iter(loader)"
            )
        try:
            with self._run.clock.of_batch(self._progress.handed, self._run.epoch).span("wait"):
                batch = self._run.handoff.get().receive()
        except BaseException:
            self.close()
            raise
        self._progress.handed += 1
        if not len(self):
            self.close()
        return batch  # type: ignore[no-any-return]

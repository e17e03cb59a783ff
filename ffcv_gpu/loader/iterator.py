"""One epoch: a thread that keeps batches in the making, and an iterator that hands them out in order."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ffcv_gpu.loader.job import BatchJob, Engine, Made
from ffcv_gpu.plan import Planner
from ffcv_gpu.steps import IntArray

__all__ = ["IN_FLIGHT", "EpochIterator"]

#: batches whose lanes are queued at once: while the last lanes of one run out, the next keeps workers busy
IN_FLIGHT = 2


class Handoff:
    """Finished batches on their way to the consumer: a bounded queue that can be closed from either end."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Any) -> bool:
        """Wait for room; return False if the consumer has gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._room)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self) -> Any:
        """Wait for the next batch; StopIteration at the end, or the first exception of the epoch."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    def close(self, error: BaseException | None = None, *, drop: bool = False) -> None:
        """Say that nothing more comes; `drop` throws away what waits."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            if drop:
                self._items.clear()
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """True once either side has ended."""
        return self._closed


class _Run:
    """What the epoch's threads share; knows nothing of the iterator, so that dropping that ends the epoch."""

    def __init__(self, engine: Engine, planner: Planner, batches: Sequence[IntArray], ahead: int) -> None:
        self.engine, self.planner, self.batches = engine, planner, batches
        self.handoff = Handoff(max(1, ahead - 1))
        self._executor = ThreadPoolExecutor(engine.workers, thread_name_prefix="ffcv_gpu-worker")
        self._thread = threading.Thread(target=self._conduct, name="ffcv_gpu-conductor", daemon=True)
        self._thread.start()

    def _conduct(self) -> None:
        jobs: deque[BatchJob] = deque()
        try:
            for index, sample_ids in enumerate(self.batches):
                with self.engine.clock.span("plan", items=sample_ids.size):
                    plan = self.planner.plan(index, sample_ids)
                jobs.append(BatchJob(self.engine, plan, self._executor, self._ended))
                if len(jobs) >= IN_FLIGHT and not self.handoff.put(self._result(jobs.popleft())):
                    return
            while jobs:
                if not self.handoff.put(self._result(jobs.popleft())):
                    return
            self.handoff.close()
        except BaseException as error:  # noqa: BLE001 (whatever it is, it belongs to the training loop)
            self.handoff.close(error)
        finally:
            for job in jobs:
                job.cancel()

    def _result(self, job: BatchJob) -> Made:
        made = job.result()
        self.engine.dataset.reading.passed(job.index)
        return made

    def _ended(self) -> bool:
        return self.handoff.closed

    def close(self) -> None:
        """End the epoch's threads; returns when they are gone."""
        self.handoff.close(drop=True)
        self.engine.dataset.reading.stop()  # nobody waits for the disk any more
        self._thread.join()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self.engine.dataset.reading.close()


class EpochIterator(Iterator[tuple[Any, ...]]):
    """The batches of one epoch, in order.

    Ends its threads at the end of the epoch, on `close`, on an exception, and when it is dropped (an early
    ``break`` needs no care).
    """

    def __init__(self, engine: Engine, planner: Planner, batches: Sequence[IntArray], ahead: int) -> None:
        self._run = _Run(engine, planner, batches, ahead)
        self._remaining = len(batches)
        self._clock = engine.clock
        self.close = weakref.finalize(self, self._run.close)

    def __iter__(self) -> EpochIterator:
        return self

    def __len__(self) -> int:
        """Batches still to come."""
        return self._remaining

    def __next__(self) -> tuple[Any, ...]:
        try:
            with self._clock.span("wait"):
                batch = self._run.handoff.get().receive()
        except BaseException:
            self.close()
            raise
        self._remaining -= 1
        if self._remaining == 0:
            self.close()
        return batch  # type: ignore[no-any-return]

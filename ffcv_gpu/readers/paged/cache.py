"""The page buffers of one epoch and the threads that fill them, in the order of the schedule."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError
from enum import IntEnum
from time import monotonic

import numpy as np

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers.base import ByteArray
from ffcv_gpu.readers.paged.schedule import PageSchedule
from ffcv_gpu.readers.paged.storage import Arena, Pages
from ffcv_gpu.steps import IntArray

__all__ = ["READER_THREADS", "PageCache"]

logger = logging.getLogger(__name__)

#: Concurrent reads: one is enough for a disk with few queues; NVMe and network storage need several.
READER_THREADS = 4
#: seconds that `close` waits for running reads
PATIENCE = 30.0


class _State(IntEnum):
    WAITING = 0
    LOADING = 1
    READY = 2
    FAILED = 3  # its payloads are read one by one, so that the error names the right payload
    GONE = 4


class PageCache:
    """Reads pages ahead into a fixed number of buffers and keeps each until its last batch has passed.

    Reads start in the order of the schedule, as soon as a buffer is free. `wait` waits only for the disk: it
    gives up if no read is running and no buffer is free. The threads end with the last read, or after `stop`.

    Parameters
    ----------
    path : str
        For messages.
    file : Pages
    schedule : PageSchedule
    arena : Arena
    """

    def __init__(self, path: str, file: Pages, schedule: PageSchedule, arena: Arena) -> None:
        self._path, self._file, self._schedule, self._arena = path, file, schedule, arena
        self._states = np.zeros(len(schedule), np.int8)
        self._positions = np.zeros(len(schedule), np.int64)  # in the arena, of byte 0 of the file
        self._buffers = np.full(len(schedule), -1, np.int64)
        self._free = list(range(arena.count - 1, -1, -1))
        self._by_last = np.argsort(schedule.lasts, kind="stable")
        self._next = self._loading = self._retired = 0
        self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        count = min(READER_THREADS, len(schedule), arena.count)
        self._threads = [
            threading.Thread(target=self._work, name="ffcv_gpu-reader", daemon=True) for _ in range(count)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no new thread; those that were started would wait for buffers forever
            self.stop()
            raise

    @property
    def memory(self) -> ByteArray:
        """All buffers, read-only."""
        return self._arena.memory

    def wait(self, reads: IntArray) -> tuple[IntArray, IntArray]:
        """Wait until `reads` are done; return (which are in memory, what to add to offsets in the file).

        Reads are not in memory if they failed, or if no read is running and no buffer is free. A file offset
        plus the second array is the offset in `memory`.

        Raises
        ------
        CancelledError
            If the epoch was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._error or self._settled(reads))
            if self._error is not None:
                raise self._error
            if self._stopped:
                raise CancelledError(f"{self._path}: the epoch was closed while a batch was being read")
            return self._states[reads] == _State.READY, self._positions[reads]

    def _settled(self, reads: IntArray) -> bool:
        stuck = not self._loading and not self._free
        return stuck or bool((self._states[reads] >= _State.READY).all())

    def passed(self, batch: int) -> None:
        """Free the buffers of pages whose last batch is `batch` or an earlier one."""
        lasts = self._schedule.lasts
        with self._changed:
            while self._retired < len(self._by_last) and lasts[self._by_last[self._retired]] <= batch:
                self._release(int(self._by_last[self._retired]))
                self._retired += 1
            self._changed.notify_all()

    def _release(self, read: int) -> None:
        """Drop a read and free its buffer; a running read frees its buffer itself."""
        loading = self._states[read] == _State.LOADING
        self._states[read] = _State.GONE
        if self._buffers[read] >= 0 and not loading:
            self._free.append(int(self._buffers[read]))

    def stop(self) -> None:
        """End all waiting; each thread ends after its current read."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Release threads and memory, after `stop`; a thread whose disk does not respond is left running."""
        until = monotonic() + PATIENCE
        for thread in self._threads:
            if thread is not threading.current_thread():  # an epoch may be dropped in any thread
                thread.join(max(0.0, until - monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            logger.warning(
                "%s: a read is still running %d s after its epoch was closed; its thread ends with it",
                *(self._path, PATIENCE),
            )
        self._arena.drop()  # a traceback may refer to it until the garbage collector runs

    # ---- the reader threads

    def _work(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._load(*taken)
        except BaseException as error:  # noqa: BLE001 (raised in the threads that wait)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _take(self) -> tuple[int, int] | None:
        """Return the next read and a buffer for it; None if nothing is left to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._finished() or self._free)
            while not self._finished() and self._states[self._next] == _State.GONE:
                self._next += 1
            if self._stopped or self._finished():
                return None
            read, buffer = self._next, self._free.pop()
            self._next += 1
            self._loading += 1
            self._states[read], self._buffers[read] = _State.LOADING, buffer
            return read, buffer

    def _finished(self) -> bool:
        return self._next >= len(self._schedule)

    def _load(self, read: int, buffer: int) -> None:
        begin, end = int(self._schedule.begins[read]), int(self._schedule.ends[read])
        state, at = _State.FAILED, 0
        try:
            at = self._file.read(begin, end, self._arena.buffer(buffer))
            state = _State.READY
        except ReadError as error:
            logger.warning("%s; reading the payloads there one by one", error)
        finally:
            self._publish(read, buffer, state, buffer * self._arena.buffer_bytes + at - begin)

    def _publish(self, read: int, buffer: int, state: _State, position: int) -> None:
        with self._changed:
            self._loading -= 1
            self._positions[read] = position
            if self._states[read] == _State.GONE:
                self._free.append(buffer)
            else:
                self._states[read] = state
            self._changed.notify_all()

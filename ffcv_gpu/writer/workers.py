"""The parent's side of the worker processes: hands out ranges of samples, yields parts in order.

It waits on all pipes and all processes at the same time, so that it notices an exception or a death at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import time
import warnings
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FfcvGpuError, PipelineError, SampleError, WriteError, too_many_files
from ffcv_gpu.writer.forking import close_in_children, nothing_is_collected
from ffcv_gpu.writer.parts import Job, Part
from ffcv_gpu.writer.progress import INTERVAL_SECONDS, Progress
from ffcv_gpu.writer.ranges import Ranges
from ffcv_gpu.writer.slots import SharedMap
from ffcv_gpu.writer.worker import SLOTS, Failure, run_worker

__all__ = ["WorkerPool"]

#: ranges queued per worker, so that it need not wait for the next
_AHEAD = 2
_GRACE_SECONDS = 0.5
#: between checks for dead workers: a process that a library forked may keep a dead worker's pipes open
_LOOK_SECONDS = 1.0
#: for workers to exit on their own when everything is done
_LEAVE_SECONDS = 5.0

_LESS = "if the machine ran out of memory, use fewer num_workers; num_workers=1 encodes in this process"
_IMPORTABLE = (
    "it printed why. With mp_context={!r} it imports the dataset's class, and a script's main module again:"
    " put the class into a module and the script's work under `if __name__ == '__main__':`; 'fork' needs"
    " neither"
)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    slots: npt.NDArray[np.uint8]
    #: ends of the ranges that it has received and not finished
    owed: deque[int] = field(default_factory=deque)

    def tell(self, message: tuple[str, Any] | None) -> None:
        # It may be dead, which `_take` is about to notice.
        with contextlib.suppress(ConnectionError):
            self.connection.send(message)


class WorkerPool:
    """The workers of `ranges`, which encode a job's samples; a context manager that ends them on exit.

    Parameters
    ----------
    job : Job
    ranges : Ranges
    context : multiprocessing context
    """

    def __init__(
        self,
        job: Job,
        ranges: Ranges,
        context: BaseContext,
    ) -> None:
        self._job, self._context = job, context
        self._ranges = ranges
        self._forks = context.get_start_method() == "fork"
        self._workers: list[_Worker] = []

    def __enter__(self) -> WorkerPool:
        with contextlib.ExitStack() as undo:
            undo.callback(self._end)
            try:
                self._start()
            except OSError as error:
                advice = too_many_files(error) or f"; {_LESS}"
                raise WriteError(
                    error.errno,
                    f"cannot start {self._ranges.workers} writer processes: {error.strerror}{advice}",
                ) from error
            undo.pop_all()
        return self

    def _start(self) -> None:
        if multiprocessing.current_process().daemon:
            raise PipelineError(
                "this process is daemonic, as a worker of multiprocessing.Pool is, and may not start the"
                f" {self._ranges.workers} writer processes: give num_workers=1, or use a ProcessPoolExecutor"
            )
        self._state = SharedMap(16 * self._ranges.workers, inherited=self._forks)
        #: int64 (workers, 2): the position of the sample that each worker is at, and how many it has begun
        self._rows = self._state.array.view(np.int64).reshape(-1, 2)
        self._rows[:, 0] = -1  # until a worker has begun its first sample
        for number in range(self._ranges.workers):
            self._start_worker(number)
        for _ in range(_AHEAD):
            for worker in self._workers:
                self._give_range(worker)

    def _start_worker(self, number: int) -> None:
        slots = SharedMap(SLOTS * self._job.slot_bytes, inherited=self._forks)
        ours, theirs = self._context.Pipe()
        close_in_children(ours)
        process = self._context.Process(  # type: ignore[attr-defined]
            target=run_worker,
            args=(theirs, self._job, slots, self._state, number),
            name=f"ffcv_gpu writer {number}",
            daemon=True,
        )
        # Before it starts, so that `_end` knows it whatever happens then.
        self._workers.append(_Worker(process, ours, slots.array.reshape(SLOTS, -1)))
        with warnings.catch_warnings(), nothing_is_collected():
            # Python 3.12 warns about every fork of a process with threads. The children use no locks that
            # the parent's threads may hold, and keep OpenCV and torch to one thread.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            try:
                process.start()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                if self._forks:
                    raise
                raise PipelineError(
                    f"mp_context={self._context.get_start_method()!r} needs a dataset and fields that can be"
                    f" pickled ({error}); 'fork' does not"
                ) from error
        theirs.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # A thread that the dataset left running would keep a finished process alive forever.
            deadline = time.monotonic() + (_LEAVE_SECONDS if error is None else 0)
            while any(w.process.exitcode is None for w in self._workers) and time.monotonic() < deadline:
                time.sleep(0.005)
        finally:
            self._end()

    def _end(self) -> None:
        started = [worker.process for worker in self._workers if worker.process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join(_GRACE_SECONDS)
            if process.exitcode is None:
                process.kill()
        for process in started:
            process.join()
        for worker in self._workers:
            worker.connection.close()

    def parts(self, progress: Progress) -> Iterator[tuple[Part, npt.NDArray[np.uint8]]]:
        """Yield all parts in order, each with its slot's memory, valid until the next item is requested.

        Raises
        ------
        SampleError
            If a worker failed on a sample.
        WriteError
            If a worker died.
        """
        waiting: dict[Hashable, tuple[Part, _Worker]] = {}
        turns = self._job.turns(self._ranges.start, self._ranges.stop)
        turn = next(turns, None)
        while turn is not None:
            while turn not in waiting:
                self._take(waiting, progress)
            part, worker = waiting.pop(turn)
            yield part, worker.slots[part.slot]
            worker.tell(("slot", part.slot))
            turn = turns.send(part)

    def _take(self, waiting: dict[Hashable, tuple[Part, _Worker]], progress: Progress) -> None:
        """Wait for a part from any worker, or for its failure or death."""
        busy = {worker.connection: worker for worker in self._workers if worker.owed}
        sentinels = [worker.process.sentinel for worker in busy.values()]
        ready = wait([*busy, *sentinels], INTERVAL_SECONDS if progress.wanted else _LOOK_SECONDS)
        progress(self._ranges.start + int(self._rows[:, 1].sum()))
        for connection, worker in busy.items():
            if connection in ready:
                part = self._receive(worker)
                self._ranges.learn(part)
                waiting[part.turn] = part, worker
                if part.ends(worker.owed[0]):
                    worker.owed.popleft()
                    self._give_range(worker)
            elif worker.process.exitcode is not None and not connection.poll():
                self._report_death(worker)

    def _receive(self, worker: _Worker) -> Part:
        message = None
        with contextlib.suppress(EOFError, ConnectionError):
            message = worker.connection.recv()
        if message is None:
            self._report_death(worker)
        if isinstance(message, Failure):
            _raise(message)
        part: Part = message
        return part

    def _give_range(self, worker: _Worker) -> None:
        bounds = self._ranges.take()
        if bounds is not None:
            worker.owed.append(bounds[1])
        # A worker that is told to stop a second time has already exited.
        worker.tell(None if bounds is None else ("range", bounds))

    def _report_death(self, worker: _Worker) -> NoReturn:
        worker.process.join()
        code = worker.process.exitcode or 0
        position = int(self._rows[self._workers.index(worker), 0])
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        where = "before its first sample" if position < 0 else f"while at {self._job.where(position)}"
        started = position >= 0 or self._forks
        advice = _LESS if started else _IMPORTABLE.format(self._context.get_start_method())
        raise WriteError(f"a writer process (pid {worker.process.pid}) {how} {where}; {advice}")


def _raise(failure: Failure) -> NoReturn:
    cause = None
    # Only the worker may have its class: one of a module that is not a file, or made while running.
    with contextlib.suppress(Exception):
        cause = pickle.loads(failure.cause) if failure.cause else None
    if not failure.is_sample:
        raise WriteError(f"a writer process stopped: {failure.message}\n{failure.trace}") from cause
    error = SampleError(failure.message)
    if not isinstance(cause, FfcvGpuError):
        error.add_note(f"In the writer process:\n{failure.trace}")
    raise error from cause

"""What runs in a worker process: receives ranges of samples, fills slots, sends parts.

The parent sends ``("range", (start, stop))``, ``("slot", k)`` for a slot that is free again, and None at the
end; the worker sends `Part`s, or one `Failure`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ffcv_gpu.errors import SampleError
from ffcv_gpu.native.process import end_with_parent
from ffcv_gpu.writer.forking import close_in_children, keep_inherited
from ffcv_gpu.writer.parts import Job
from ffcv_gpu.writer.slots import SharedMap
from ffcv_gpu.writer.streams import encoder_of

__all__ = ["SLOTS", "Failure", "run_worker"]

#: slots per worker: one being filled, one being written, and two between, so that neither side waits
SLOTS = 4


@dataclass(frozen=True)
class Failure:
    """Why a worker gave up: the message of the `SampleError` to raise, or else what stopped it."""

    message: str
    is_sample: bool
    #: the exception behind it, pickled; empty if there is none or it cannot be pickled
    cause: bytes
    trace: str


def run_worker(
    connection: Connection,
    job: Job,
    slots: SharedMap,
    state: SharedMap,
    number: int,
) -> None:
    """Encode until told to stop.

    Parameters
    ----------
    connection
        The worker's end of its pipe.
    job : Job
    slots : SharedMap
        `SLOTS` times ``job.slot_bytes``.
    state : SharedMap
        int64 (workers, 2): the sample each worker is at, and how many it has begun.
    number : int
        This worker's row in `state`.
    """
    keep_inherited()
    # If this process dies within a message, the parent must not wait for the rest.
    close_in_children(connection)
    _settle()
    row = state.array.view(np.int64).reshape(-1, 2)[number]
    memory = slots.array.reshape(SLOTS, job.slot_bytes)

    def tick(position: int) -> None:
        row[0] = position
        row[1] += 1

    try:
        encoder = encoder_of(job, tick)
        inbox = _Inbox(connection)
        for start, stop in inbox.ranges():
            for part in encoder.parts(start, stop, memory, inbox.free_slot):
                connection.send(part)
    except (EOFError, ConnectionError):
        pass  # the parent is gone: only our own pipe raises these two, those of a sample are wrapped
    except BaseException as error:  # noqa: BLE001 (raised in the parent)
        with contextlib.suppress(ConnectionError):
            connection.send(_failure(error))


def _settle() -> None:
    """Set signals and thread counts for a worker process."""
    # Ctrl-C reaches the whole process group; the parent stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A worker that waits for the parent sees its pipe break; one that hangs in the dataset would stay.
    end_with_parent(signal.SIGKILL)
    # For libraries imported later: one thread, as there are other processes.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Thread pools do not survive a fork: OpenCV and OpenMP would wait for threads that do not exist.
    for module, function, count in (("cv2", "setNumThreads", 0), ("torch", "set_num_threads", 1)):
        if module in sys.modules:
            getattr(sys.modules[module], function)(count)


class _Inbox:
    """The incoming messages, sorted by kind."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ranges: deque[tuple[int, int] | None] = deque()
        self._free = deque(range(SLOTS))

    def ranges(self) -> Iterator[tuple[int, int]]:
        while (bounds := self._next(self._ranges)) is not None:
            yield bounds

    def free_slot(self) -> int:
        return int(self._next(self._free))

    def _next(self, kind: deque[Any]) -> Any:
        while not kind:
            message = self._connection.recv()
            if message is None:
                self._ranges.append(None)
            elif message[0] == "range":
                self._ranges.append(message[1])
            else:
                self._free.append(message[1])
        return kind.popleft()


def _failure(error: BaseException) -> Failure:
    is_sample = isinstance(error, SampleError)
    cause = error.__cause__ if is_sample else error
    message = str(error) if is_sample else f"{type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(cause or error))
    return Failure(message, is_sample, _pickled(cause), text)


def _pickled(error: BaseException | None) -> bytes:
    """Return the pickled exception; empty if it cannot be pickled and unpickled."""
    # A user's exception class may raise anything while it is pickled or unpickled.
    with contextlib.suppress(Exception):
        data = pickle.dumps(error)
        pickle.loads(data)
        return data
    return b""

"""Streams and events whose work waits: nothing submitted runs until somebody waits for it.

This is the latest that a real device may be, so code that reads a result without waiting, or uses memory
again that a queued piece of work still needs, gets wrong values here, every time. ``deferred=False`` is
the earliest: work runs when it is submitted. Right code gives the same results both ways.

Standing in for CUDA: the calls have its meaning (an event that was never recorded is complete; waiting for
an event means its most recent record at the time of the call). Works run one after the other, in the
thread that waits. Time plays no part.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["FakeEvent", "FakeStream", "FakeStreams", "Work"]

Work = Callable[[], None]


class FakeStreams:
    """The streams of one device.

    Parameters
    ----------
    deferred : bool
        Whether work waits; else it runs at once.

    Attributes
    ----------
    default : FakeStream
        The stream with handle 0. It does not wait for the others, unlike CUDA's legacy stream.
    """

    def __init__(self, *, deferred: bool = True) -> None:
        self.deferred = deferred
        # Re-entrant: a piece of work may wait for an event of another stream.
        self.lock = threading.RLock()
        self._hasty: deque[Work] = deque()
        self._handles = itertools.count(0x5CED_0000_0000, 16)
        self._streams: dict[int, FakeStream] = {}
        self.default = FakeStream(self, 0)
        self._streams[0] = self.default

    def stream(self) -> FakeStream:
        """Make a stream."""
        with self.lock:
            made = FakeStream(self, next(self._handles))
            self._streams[made.handle] = made
        return made

    def event(self) -> FakeEvent:
        """Make an event."""
        return FakeEvent(self)

    def find(self, handle: int) -> FakeStream | None:
        """Return the stream with this ``cudaStream_t``, or None if there is none."""
        return self._streams.get(handle)

    def synchronize(self) -> None:
        """Wait for all work of all streams, as cudaDeviceSynchronize."""
        with self.lock:
            for stream in list(self._streams.values()):
                stream.synchronize()


def _anywhere() -> None: ...


class FakeStream:
    """A queue of work; made by `FakeStreams.stream`. `handle` is its ``cudaStream_t``.

    `on_use`, like that of `FakeEvent`, is called by each call, and may raise.
    """

    def __init__(self, streams: FakeStreams, handle: int) -> None:
        self.handle = handle
        self.on_use: Callable[[], None] = _anywhere
        self._streams = streams
        self._queue: deque[Work] = deque()

    @property
    def idle(self) -> bool:
        """Whether no work is waiting."""
        return not self._queue

    def submit(self, work: Work) -> None:
        """Do `work` after all that was submitted before."""
        self.on_use()
        with self._streams.lock:
            self._queue.append(work)
            if not self._streams.deferred:
                self.synchronize()

    def overtake(self, work: Work) -> None:
        """Do `work` before all that is waiting in any stream: what the order of streams should forbid."""
        with self._streams.lock:
            if self._streams.deferred:
                self._streams._hasty.append(work)
            else:
                work()

    def record(self, event: FakeEvent) -> None:
        """Complete `event` when all work submitted before is done."""
        with self._streams.lock:
            record = _Record(self)
            event._record = record
            self.submit(record.complete)

    def wait(self, event: FakeEvent) -> None:
        """Let later work wait for the most recent record of `event`; returns at once."""
        with self._streams.lock:
            if event._record is not None:
                self.submit(event._record.synchronize)

    def synchronize(self) -> None:
        """Wait until all work is done."""
        with self._streams.lock:
            while self._queue:
                self._step()

    def _step(self) -> None:
        while self._streams._hasty:
            self._streams._hasty.popleft()()
        self._queue.popleft()()


class _Record:
    """One recording of an event: a place in a stream's queue."""

    def __init__(self, stream: FakeStream) -> None:
        self.done = False
        self._stream = stream

    def complete(self) -> None:
        self.done = True

    def synchronize(self) -> None:
        while not self.done:
            self._stream._step()


class FakeEvent:
    """A mark in a stream; made by `FakeStreams.event`."""

    def __init__(self, streams: FakeStreams) -> None:
        self.on_use: Callable[[], None] = _anywhere
        self._streams = streams
        self._record: _Record | None = None

    def query(self) -> bool:
        """Say whether the recorded work is done. Each call lets one more piece of it be done after it."""
        with self._streams.lock:
            if self._record is None or self._record.done:
                return True
            self._record._stream._step()
            return False

    def synchronize(self) -> None:
        """Wait until the recorded work is done."""
        self.on_use()
        with self._streams.lock:
            if self._record is not None:
                self._record.synchronize()

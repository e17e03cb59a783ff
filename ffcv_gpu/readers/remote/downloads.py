"""Fetches blocks of a remote file into its mirror in a few threads: blocks waited for first, then ahead.

Threads, not an event loop: at interpreter exit, obstore's own threads would call back into Python and crash
the process (observed). No lock is held during a download. Waiting threads poll the mirror, because another
process may fetch their blocks.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from time import monotonic
from typing import Final

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers.remote.mirror import BLOCK_BYTES, Mirror
from ffcv_gpu.readers.remote.schedule import AHEAD_BLOCKS, Plan, Source, Urgent
from ffcv_gpu.readers.remote.store import ObjectLost, RemoteObject
from ffcv_gpu.steps import IntArray

__all__ = ["CONNECTIONS", "Downloads"]

#: concurrent requests: each takes tens of milliseconds to answer and gets a part of the bandwidth
CONNECTIONS: Final = 16
#: concurrent requests of several files read side by side; each file has at least one, in a thread of its own
CONNECTIONS_OF_ALL: Final = 64
#: maximum number of blocks per request
RUN_BLOCKS: Final = 8
#: seconds between two looks of a waiting thread at the mirror: other processes may fetch its blocks
POLL: Final = 0.05
#: seconds for which a failure is remembered: a request for the same block fails at once meanwhile
FRESH: Final = 60.0
#: seconds after which a block is fetched although it is claimed: by a stopped process, or by the forked
#: child of one that died
STALE: Final = 120.0
#: bytes written between two flushes to the disk
KEEP_BYTES: Final = 256 << 20
#: seconds that interpreter exit waits for running downloads
EXIT_PATIENCE: Final = 5.0


class Downloads:
    """Fetches blocks of one object into its mirror; the threads exist only while there is something to fetch.

    Parameters
    ----------
    source : RemoteObject
    mirror : Mirror

    Attributes
    ----------
    lost : ReadError or None
        Why no more blocks can be fetched, if so.
    ahead_blocks : int
        How far an epoch's plan is to be fetched ahead.
    """

    def __init__(self, source: RemoteObject, mirror: Mirror) -> None:
        self._source, self._mirror = source, mirror
        self._connections, self.ahead_blocks = CONNECTIONS, AHEAD_BLOCKS
        self._process = os.getpid()
        # Re-entrant: the garbage collector may end an epoch, and call `drop`, while this thread holds it.
        lock = threading.RLock()
        self._arrived, self._more = threading.Condition(lock), threading.Condition(lock)
        self._urgent, self._plans = Urgent(), list[Plan]()
        self._under_way: set[int] = set()
        self._overdue: set[int] = set()
        self._waiting = 0
        self._threads: set[threading.Thread] = set()
        self._busy = 0  # of these, those that fetch or flush
        self._failures: dict[int, tuple[float, ReadError]] = {}  # by block; -1: all blocks
        self._failed_in_a_row = self._not_kept = 0
        self._retries = 0  # how often `retry` was called: failures of what began before count no more
        self.lost: ReadError | None = None
        self._broken: BaseException | None = None  # what ended a thread
        self._ended: BaseException | None = None  # set by `end`
        _LIVE.add(self)

    def share(self, files: int) -> None:
        """Use a share of the connections, and fetch less far ahead: `files` files are read side by side."""
        self._connections = min(CONNECTIONS, -(-CONNECTIONS_OF_ALL // files))
        self.ahead_blocks = -(-AHEAD_BLOCKS // files)

    # ---- for readers

    def bring(self, blocks: IntArray, ended: Callable[[], bool] = lambda: False) -> None:
        """Wait until all `blocks` are in the mirror.

        Raises
        ------
        ReadError
            If one cannot be fetched.
        CancelledError
            Once `ended` returns True; it is called after each `drop`.
        """
        if not (missing := self._mirror.missing(blocks)).size:
            return
        self._check_process()
        stale = monotonic() + STALE
        with self._arrived:
            self._waiting += 1
            try:
                while (missing := self._mirror.missing(missing)).size:
                    if ended():
                        raise CancelledError(
                            f"{self._source.url}: the epoch was closed while a batch was read"
                        )
                    self._raise_for(missing)
                    if monotonic() > stale:
                        self._overdue.update(missing.tolist())
                    self._want(missing)
                    self._arrived.wait(POLL)
            finally:
                self._waiting -= 1

    def _want(self, missing: IntArray) -> None:
        for block in missing.tolist():
            if block not in self._under_way:
                self._urgent.add(block)
        self._staff(len(self._urgent))

    def _raise_for(self, missing: IntArray) -> None:
        """Raise the remembered failure of one of these blocks, or of all blocks."""
        for why in (self._ended, self._broken):
            if why is not None:
                raise why
        if self.lost is not None:
            raise type(self.lost)(*self.lost.args) from self.lost
        long_ago = monotonic() - FRESH
        for block in (-1, *missing.tolist()) if self._failures else ():
            when, error = self._failures.get(block, (long_ago, None))
            if error is not None and when > long_ago:
                raise ReadError(*error.args) from error

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ReadError(
                f"{self._source.url} was opened before this process was forked, and downloads do not survive "
                "a fork; start the child by 'spawn' (only what is on the local disk can be read here)"
            )

    def retry(self) -> None:
        """Forget all failures, and those to come of what is being fetched now: a new epoch tries again."""
        if os.getpid() != self._process:
            self.lost = None  # the lock may have been held at the fork, and nothing is fetched here
            return
        with self._arrived:
            self._retries += 1
            self._failures.clear()
            self._failed_in_a_row, self.lost, self._broken = 0, None, None

    def ask(self, plan: Plan, batch: int) -> None:
        """Tell that a batch of the plan is being read: its blocks are fetched up to a limit, until `drop`."""
        self._check_process()
        with self._arrived:
            if not plan.begun:
                plan.begun = True
                self._plans.append(plan)
            if plan.ask(batch):
                self._staff(self._connections)

    def drop(self, plan: Plan) -> None:
        """Stop fetching ahead for a plan, and wake all waiting threads."""
        if os.getpid() != self._process:
            return  # the threads are the parent's, and one of them may have held the lock at the fork
        with self._arrived:
            plan.begun = True  # it is not begun by a batch that is still being read
            if plan in self._plans:
                self._plans.remove(plan)
            self._urgent.clear()  # threads that still wait ask again
            self._arrived.notify_all()
            self._more.notify_all()

    def end(self) -> list[threading.Thread]:
        """Stop all fetching, for good; return the threads that are still running."""
        if os.getpid() != self._process:
            return []
        with self._arrived:
            self._ended = CancelledError(f"{self._source.url}: the interpreter is ending")
            self._plans.clear()
            self._urgent.clear()
            self._arrived.notify_all()
            self._more.notify_all()
            return list(self._threads)

    # ---- the threads

    def _staff(self, wanted: int) -> None:
        """Wake all threads, and start some if fewer than `wanted` are free; the caller holds the lock."""
        self._more.notify_all()
        while len(self._threads) < min(wanted + self._busy, self._connections):
            thread = threading.Thread(target=self._work, name="ffcv_gpu-download", daemon=True)
            thread.start()
            self._threads.add(thread)  # it cannot have ended yet: that takes the lock

    def _work(self) -> None:
        retries = self._retries
        try:
            while run := self._take():
                retries = self._retries
                try:
                    self._fetch(run)
                    self._keep(at_least=KEEP_BYTES)
                finally:
                    with self._arrived:
                        self._busy -= 1
            self._keep(at_least=1)
        except BaseException as error:  # noqa: BLE001 (raised in the threads that wait)
            with self._arrived:
                if retries == self._retries:
                    self._broken = error
                self._threads.discard(threading.current_thread())
                self._arrived.notify_all()

    def _take(self) -> list[int]:
        """Return the next blocks to fetch, neighbours and claimed; none when there is nothing left to do."""
        with self._arrived:
            while self.lost is None:
                sources: list[Source] = [self._urgent, *self._plans]
                for source in sources:
                    while source.peek() is not None:
                        if run := self._next_run(source):
                            self._busy += 1
                            return run
                if all(plan.done for plan in self._plans):
                    break
                self._more.wait()
            # Under the lock, so that `_staff` starts another thread if more is wanted.
            self._threads.discard(threading.current_thread())
            return []

    def _next_run(self, source: Source) -> list[int]:
        run: list[int] = []
        while len(run) < RUN_BLOCKS and (block := source.peek()) is not None:
            if run and block != run[-1] + 1:
                break
            source.advance()
            if self._claimed(block):
                run.append(block)
            elif run:
                break
        return run

    def _claimed(self, block: int) -> bool:
        """Claim a block for this thread; False if it is there, or is being fetched elsewhere."""
        if block in self._under_way or self._mirror.has(block):
            return False
        if not self._mirror.claim(block) and block not in self._overdue:
            return False
        if self._mirror.has(block):  # another process fetched it and released its claim just before ours
            self._mirror.release(block)
            return False
        self._under_way.add(block)
        return True

    def _fetch(self, run: list[int]) -> None:
        retries = self._retries
        try:
            for block in self._fetched(run):
                self._mirror.mark(block)
                with self._arrived:
                    self._not_kept += BLOCK_BYTES
                    self._failed_in_a_row = 0
                    for known in (block, -1):
                        self._failures.pop(known, None)
                    self._arrived.notify_all()
        except ReadError as error:
            self._note(error, run, retries)
        finally:
            with self._arrived:
                self._under_way.difference_update(run)
                for block in run:
                    self._mirror.release(block)
                self._arrived.notify_all()

    def _fetched(self, run: list[int]) -> Iterator[int]:
        """Download a run; yield each block once it is written. Ends early if nothing needs it any more."""
        block, at = run[0], run[0] * BLOCK_BYTES
        end = min((run[-1] + 1) * BLOCK_BYTES, self._mirror.size)
        for piece in self._source.read(at, end):
            self._mirror.write(at, piece)
            at += len(piece)
            while block <= run[-1] and at >= min((block + 1) * BLOCK_BYTES, end):
                yield block
                block += 1
            if not self._plans and not self._waiting:
                return

    def _note(self, error: ReadError, run: list[int], retries: int) -> None:
        """Remember a failure: of its blocks, or of all blocks after `CONNECTIONS` failures in a row.

        Not if it is of something begun before the last `retry`: who waits for it will ask again.
        """
        with self._arrived:
            if retries != self._retries:
                return
            if isinstance(error, ObjectLost):
                self.lost = error
            self._failed_in_a_row += 1
            missing = [block for block in run if not self._mirror.has(block)]
            everything = [-1] if self._failed_in_a_row >= CONNECTIONS else []
            self._failures.update(dict.fromkeys(missing + everything, (monotonic(), error)))

    def _keep(self, at_least: int) -> None:
        """Flush to the disk if at least so many bytes were written since the last time."""
        with self._arrived:
            due = self._not_kept >= at_least
            retries = self._retries
            if due:
                self._not_kept = 0
        if not due:
            return
        try:
            self._mirror.keep()
        except ReadError as error:
            self._note(error, [], retries)


_LIVE: weakref.WeakSet[Downloads] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Let threads leave obstore first: returning from it after interpreter exit would abort the process."""
    until = monotonic() + EXIT_PATIENCE
    for thread in [thread for downloads in list(_LIVE) for thread in downloads.end()]:
        thread.join(max(0.0, until - monotonic()))


# Also before the interpreter waits for thread pools: a loader's workers may be waiting for a silent server.
# concurrent.futures registers its own wait in this way (the name is private); `atexit` comes later.
with suppress(AttributeError):
    threading._register_atexit(_end_all)  # type: ignore[attr-defined]

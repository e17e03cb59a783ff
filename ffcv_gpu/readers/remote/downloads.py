"""Brings blocks of a remote file into its mirror, by a few threads: what is waited for, then what comes next.

Threads, not an event loop: at the end of the interpreter obstore's own threads, calling back into Python,
would end the process by a signal (seen). No lock is held during a download, and nobody waits for a thread:
those who wait look themselves whether their blocks are there, for another process may have fetched them.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from time import monotonic
from typing import Final

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers.remote.mirror import BLOCK_BYTES, Mirror
from ffcv_gpu.readers.remote.schedule import Plan, Source, Urgent
from ffcv_gpu.readers.remote.store import ObjectLost, RemoteObject
from ffcv_gpu.steps import IntArray

__all__ = ["CONNECTIONS", "Downloads"]

#: requests under way at once: object stores answer each after tens of milliseconds, at a share of the line
CONNECTIONS: Final = 16
#: most blocks of one request
RUN_BLOCKS: Final = 8
#: seconds after which those who wait look again: blocks may come from other processes
POLL: Final = 0.05
#: seconds for which a failure counts: whoever wants the same block within them is not kept waiting again
FRESH: Final = 60.0
#: seconds after which a block is fetched although somebody else is at it: a process that was stopped, or one
#: that died and left a forked child with its claims
STALE: Final = 120.0
#: bytes after which the disk is made to keep what was written
KEEP_BYTES: Final = 256 << 20
#: seconds that the end of the interpreter waits for downloads to notice it
EXIT_PATIENCE: Final = 5.0


class Downloads:
    """Fetches blocks of one object into one mirror; its threads live while there is something to fetch.

    Parameters
    ----------
    source : RemoteObject
    mirror : Mirror

    Attributes
    ----------
    lost : ReadError or None
        Why no block can be had any more.
    """

    def __init__(self, source: RemoteObject, mirror: Mirror) -> None:
        self._source, self._mirror = source, mirror
        self._process = os.getpid()
        lock = threading.RLock()  # an epoch may be dropped, and end, while this thread holds it
        self._arrived, self._more = threading.Condition(lock), threading.Condition(lock)
        self._urgent, self._plans = Urgent(), list[Plan]()
        self._under_way: set[int] = set()
        self._overdue: set[int] = set()
        self._waiting = 0
        self._threads: set[threading.Thread] = set()
        self._failures: dict[int, tuple[float, ReadError]] = {}  # by block; of all blocks: -1
        self._failed_in_a_row = self._not_kept = 0
        self.lost: ReadError | None = None
        self._broken: BaseException | None = None
        _LIVE.add(self)

    # ---- what is wanted

    def bring(self, blocks: IntArray, ended: Callable[[], bool] = lambda: False) -> None:
        """Wait until all `blocks` are in the mirror.

        Raises
        ------
        ReadError
            If one cannot be fetched.
        CancelledError
            Once `ended` returns true, which is asked after each `drop`.
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
        if self._urgent.peek() is not None:
            self._staff()

    def _raise_for(self, missing: IntArray) -> None:
        """Raise what is known to have gone wrong with one of these blocks, or with all."""
        if self._broken is not None:
            raise self._broken
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
                f"{self._source.url} was opened before this process forked, and no download survives a fork; "
                "start the child by 'spawn' (what is on the local disk already can be read here)"
            )

    def follow(self, plan: Plan) -> None:
        """Fetch the blocks of a plan ahead, as far as it is asked for, until `drop`; forget old failures."""
        self._check_process()
        with self._arrived:
            self._plans.append(plan)
            self._failures.clear()
            self._failed_in_a_row, self.lost = 0, None

    def ask(self, plan: Plan, batch: int) -> None:
        """Say that a batch of the plan is being read."""
        with self._arrived:
            if plan.ask(batch):
                self._staff()

    def drop(self, plan: Plan) -> None:
        """Fetch nothing more ahead for a plan, and wake all who wait."""
        if os.getpid() != self._process:
            return  # the parent's threads are not here, and somebody may have held the lock
        with self._arrived:
            if plan in self._plans:
                self._plans.remove(plan)
            self._urgent.clear()  # who is still there asks again
            self._arrived.notify_all()
            self._more.notify_all()

    def end(self) -> list[threading.Thread]:
        """Fetch nothing more at all; return the threads that still have to notice it."""
        if os.getpid() != self._process:
            return []
        with self._arrived:
            self._broken = CancelledError(f"{self._source.url}: the interpreter is ending")
            self._plans.clear()
            self._urgent.clear()
            self._arrived.notify_all()
            self._more.notify_all()
            return list(self._threads)

    # ---- the threads

    def _staff(self) -> None:
        """Have as many threads as there may be requests, and wake them; with the lock held."""
        self._more.notify_all()
        while len(self._threads) < CONNECTIONS:
            thread = threading.Thread(target=self._work, name="ffcv_gpu-download", daemon=True)
            thread.start()
            self._threads.add(thread)  # if it could be started; it cannot have ended, which takes the lock

    def _work(self) -> None:
        try:
            while run := self._take():
                self._fetch(run)
            self._keep(at_least=1)
        except BaseException as error:  # noqa: BLE001 (whatever it is, it belongs to the batches that wait)
            with self._arrived:
                self._broken = error
                self._threads.discard(threading.current_thread())
                self._arrived.notify_all()

    def _take(self) -> list[int]:
        """Return neighbouring blocks to fetch, claimed; none when there is nothing more to do."""
        with self._arrived:
            while True:
                sources: list[Source] = [self._urgent, *self._plans]
                for source in sources:
                    while source.peek() is not None:
                        if run := self._next_run(source):
                            return run
                if self.lost is not None or all(plan.done for plan in self._plans):
                    self._threads.discard(threading.current_thread())  # now: others begin if more is wanted
                    return []
                self._more.wait()

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
        """Take it upon this thread to fetch a block; False if it is there, or somebody else is at it."""
        if block in self._under_way or self._mirror.has(block):
            return False
        if not self._mirror.claim(block) and block not in self._overdue:
            return False
        if self._mirror.has(block):  # another process has done it, just before its claim ended
            self._mirror.release(block)
            return False
        self._under_way.add(block)
        return True

    def _fetch(self, run: list[int]) -> None:
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
            self._note(error, run)
        finally:
            with self._arrived:
                self._under_way.difference_update(run)
                for block in run:
                    self._mirror.release(block)
                self._arrived.notify_all()
        self._keep(at_least=KEEP_BYTES)

    def _fetched(self, run: list[int]) -> Iterator[int]:
        """Download a run; yield each block once it is written. Ends early if nobody wants it any more."""
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

    def _note(self, error: ReadError, run: list[int]) -> None:
        """Remember a failure: of the blocks it concerns, or of all if many came and nothing else."""
        with self._arrived:
            if isinstance(error, ObjectLost):
                self.lost = error
            self._failed_in_a_row += 1
            missing = [block for block in run if not self._mirror.has(block)]
            everything = [-1] if self._failed_in_a_row >= CONNECTIONS else []
            self._failures.update(dict.fromkeys(missing + everything, (monotonic(), error)))

    def _keep(self, at_least: int) -> None:
        """Have the disk keep what was written, once that is so much."""
        with self._arrived:
            due = self._not_kept >= at_least
            if due:
                self._not_kept = 0
        if due:
            self._mirror.keep()


_LIVE: weakref.WeakSet[Downloads] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Let threads leave obstore before the interpreter ends: coming back to none, they would abort."""
    until = monotonic() + EXIT_PATIENCE
    for thread in [thread for downloads in list(_LIVE) for thread in downloads.end()]:
        thread.join(max(0.0, until - monotonic()))

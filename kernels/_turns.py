"""Lets one process compile a function while the others that need it wait, and then load what it kept."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where every process compiles for itself
    fcntl = None

__all__ = ["Turns"]

#: longer than any function takes to compile: whoever has not finished by then has been stopped
LONGEST_SECONDS = 120.0
POLL_SECONDS = 0.02


class Turns:
    """A lock between processes, per thread; the system releases it when the process ends, however it ends.

    Without it, processes that start together (those of torchrun, for example) all compile the same functions:
    with few cores, each takes as many times as long.

    Parameters
    ----------
    path : str or None
        What to take turns at; the file that is locked has this name and ``.lock`` added, and stays: a removed
        one could still be locked by somebody. None: there is nothing to wait for.
    longest : float
        Seconds to wait for another process before going on without a lock.
    """

    def __init__(self, path, longest=LONGEST_SECONDS):
        self._path, self._longest = path and Path(f"{path}.lock"), longest
        self._mine = threading.local()

    def take(self):
        """Take the lock; return whether another process had it, so that its result may be there now.

        Where files cannot be locked, nothing happens.
        """
        self.give()
        if fcntl is None or not self._path:
            return False
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._mine.file = self._path.open("ab")
            return self._wait()
        return False

    def _wait(self):
        end, waited = time.monotonic() + self._longest, False
        while True:
            try:
                fcntl.flock(self._mine.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    return waited
            else:
                return waited
            waited = True
            time.sleep(POLL_SECONDS)

    def give(self):
        """Release the lock, if this thread has it."""
        file = getattr(self._mine, "file", None)
        if file is not None:
            self._mine.file = None
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile has the open file, too
            file.close()

"""Lets one process compile a function while the others that need it wait, and then load what it kept."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

try:
    import fcntl
except ImportError:  # not on Windows, where every process compiles for itself
    fcntl = None

__all__ = ["Turns"]

#: longer than any function takes to compile: whoever has not finished by then has been stopped
LONGEST_SECONDS = 60.0
POLL_SECONDS = 0.02


class Turns:
    """A lock between processes, per thread; the system releases it when the process ends, however it ends.

    Without it, processes that start together (those of torchrun, for example) all compile the same functions:
    four processes on two cores had their first batch after 33 s, with it after 19 s.

    Parameters
    ----------
    path : str or None
        What to take turns at; the file that is locked has this name and ``.lock`` added, and stays: a removed
        one could still be locked by somebody. None: there is nothing to wait for.
    longest : float
        Seconds to wait for another process before going on without a lock.
    """

    def __init__(self, path, longest=LONGEST_SECONDS):
        self._path, self._longest = path and f"{path}.lock", longest
        self._mine = threading.local()

    def take(self):
        """Wait for the turn. Where files cannot be locked, nothing happens."""
        self.give()
        if fcntl is None or not self._path:
            return
        with suppress(OSError):
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            # A bare descriptor: nobody warns if a process that was forked meanwhile never closes it.
            self._mine.file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._wait()

    def _wait(self):
        end = time.monotonic() + self._longest
        while time.monotonic() < end:
            try:
                fcntl.flock(self._mine.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL_SECONDS)
            else:
                return

    def give(self):
        """Release the lock, if this thread has it."""
        file = getattr(self._mine, "file", None)
        if file is not None:
            self._mine.file = None
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file, too
            os.close(file)

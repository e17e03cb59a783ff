"""Processes that a test did not start itself: the children of others."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["alive", "kill", "within"]


def alive(pid: int) -> bool:
    """Return whether a process runs. One that has ended stays in the list until its parent asks for its
    status, and where the first process of a container asks for none, for ever."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # also one that ends meanwhile
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def kill(pid: int) -> None:
    """Kill a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def within(done: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until `done` says so: as long as a busy machine may need to start a process, and some."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.02)

"""The memory of a process and all its descendants, sampled from outside while it works."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

__all__ = ["Peak", "answered", "once_bytes", "tree_bytes"]

#: seconds between two samples; one takes about a millisecond of this process's time
PAUSE = 0.2


class Peak:
    """The peak memory of a process and its descendants, by `tree_bytes` or `once_bytes`."""

    def __init__(self, measure: Callable[[int], int] | None = None) -> None:
        self.bytes, self._measure = 0, measure or tree_bytes

    def look(self, pid: int) -> None:
        """Take a sample."""
        self.bytes = max(self.bytes, self._measure(pid))


def answered(pipe: IO[bytes], timeout: float, pid: int, peak: Peak | None) -> bool:
    """Wait up to `timeout` seconds until there is something to read; sample the memory meanwhile."""
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        ready = bool(select.select([pipe], [], [], left if peak is None else min(left, PAUSE))[0])
        if peak is not None:
            peak.look(pid)
        if ready:
            return True
    return False


def tree_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants, without pages of mapped files.

    Those belong to the page cache: a process that maps a file would seem to need all of it. Memory shared
    between processes counts in each of them.
    """
    return sum(found_bytes(process, "status", ("RssAnon", "RssShmem")) for process in tree(pid))


def once_bytes(pid: int) -> int:
    """Return `tree_bytes`, but count shared pages once.

    The kernel visits every page for that: tens of milliseconds for gigabytes, too slow while a clock runs.
    """
    return sum(found_bytes(process, "smaps_rollup", ("Pss_Anon", "Pss_Shmem")) for process in tree(pid))


def tree(pid: int) -> Iterator[int]:
    """Yield a process and its living descendants."""
    yield pid
    # A process may end at any time.
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text(encoding="ascii").split():
                    yield from tree(int(child))


def found_bytes(pid: int, file: str, keys: tuple[str, ...]) -> int:
    """Sum lines ``key: N kB`` of a process's file in /proc; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return sum(int(found[key].split()[0]) * 1024 for key in keys if key in found)

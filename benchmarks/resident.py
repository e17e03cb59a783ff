"""Memory that a process and its children hold, seen from outside."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

__all__ = ["Watch", "family_bytes"]

SECONDS = 0.1


def family_bytes(process: int) -> int:
    """Anonymous and shared memory of a process and its descendants, each page counted once.

    Pages of mapped files are left out: the page cache holds them, whoever maps them.
    """
    total = 0
    for path in [Path(f"/proc/{process}"), *(Path(f"/proc/{child}") for child in descendants(process))]:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            lines = (path / "smaps_rollup").read_text(encoding="ascii").splitlines()
            found = dict(line.split(":", 1) for line in lines if ":" in line and line.startswith("Pss_"))
            total += sum(int(found[key].split()[0]) for key in ("Pss_Anon", "Pss_Shmem")) * 1024
    return total


def descendants(process: int) -> list[int]:
    """Return the ids of a process's children, of theirs, and so on."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                found += [child, *descendants(child)]
    return found


class Watch:
    """Looks at `family_bytes` all the time while it is entered; ``peak`` is the most it has seen."""

    def __init__(self, process: int) -> None:
        self._process, self._end, self.peak = process, threading.Event(), 0
        self._thread = threading.Thread(target=self._look, daemon=True)

    def look(self) -> int:
        """Look once; returns the most seen so far."""
        self.peak = max(self.peak, family_bytes(self._process))
        return self.peak

    def _look(self) -> None:
        while not self._end.wait(SECONDS):
            self.look()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.look()

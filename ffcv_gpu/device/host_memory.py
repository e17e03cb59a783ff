"""The amount of host memory that is still available."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_bytes"]

MEMINFO = Path("/proc/meminfo")
#: the container's control group
GROUP = Path("/sys/fs/cgroup")
#: its files for limit and use, and what precedes the names in its statistics: version 2, version 1
VERSIONS = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)


def available_bytes() -> int:
    """Return how many bytes this process can allocate without swapping, within its control group's limit.

    Files in the system's page cache count as available: their pages are given up when memory is needed.
    """
    found = []
    if MEMINFO.is_file():
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    for folder, names in zip((GROUP, GROUP / "memory"), VERSIONS, strict=True):
        left = _left_in(folder, *names)
        if left is not None:
            found.append(left)
    return min(found, default=os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _left_in(folder: Path, limit: str, used: str, prefix: str) -> int | None:
    """Return what is left of a group's limit; None without one."""
    try:
        most, taken = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # "max"
        return None
    names = (f"{prefix}active_file", f"{prefix}inactive_file")
    cached = sum(int(line.split()[1]) for line in lines if line.split()[0] in names)
    return max(0, most - taken + cached)

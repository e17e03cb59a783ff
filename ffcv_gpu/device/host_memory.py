"""The amount of host memory that is still available."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_bytes"]

MEMINFO = Path("/proc/meminfo")
#: the container's control group (version 2)
GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Return how many bytes this process can allocate without swapping, within its control group's limit."""
    found = []
    if MEMINFO.is_file():
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    limit, used = GROUP / "memory.max", GROUP / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        found.append(max(0, int(most) - int(used.read_text(encoding="ascii"))))
    return min(found, default=os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))

"""How many CPUs this process may use: by its affinity, its control group's quota, and its share of both."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["cpu_quota", "cpus_per_rank", "usable_cpus"]

_GROUPS = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1; part of one counts as one.

    A container's limit (``docker run --cpus``, Kubernetes' ``limits.cpu``) does not show in the affinity:
    with a thread per CPU of the machine, all of them are stopped once the quota of a period is used up.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cpus_per_rank() -> int:
    """Return this process's share of the CPUs, at least 1, if torchrun started several on this machine.

    They share the machine and the quota equally. A process that its launcher bound to CPUs (Slurm, numactl)
    has its share already: its affinity is not divided again. Eight processes on two CPUs loaded photographs
    at 0.8 times the speed with 16 threads each that they reached with one each.
    """
    said, quota = os.environ.get("LOCAL_WORLD_SIZE", ""), cpu_quota()
    processes = max(1, int(said)) if said.isdecimal() else 1
    shared = [float(os.cpu_count() or 1), *([] if quota is None else [quota])]
    return min(usable_cpus(), *(max(1, math.ceil(cpus / processes)) for cpus in shared))


def cpu_quota() -> float | None:
    """Return the CPU quota of this process's control group, in CPUs; None without a limit."""
    return min(_quotas(), default=None)


def _quotas() -> Iterator[float]:
    """Yield the limits of the group and of those that contain it; the lowest one holds."""
    try:
        lines = _MINE.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container, the path may be the host's, and its own group is mounted at the top.
        for place in (PurePosixPath(path), *PurePosixPath(path).parents):
            inside = str(place).lstrip("/")
            folder = _GROUPS / "cpu" / inside if controllers else _GROUPS / inside
            quota = _version_1(folder) if controllers else _version_2(folder)
            if quota is not None:
                yield quota


def _version_1(folder: Path) -> float | None:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _version_2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None

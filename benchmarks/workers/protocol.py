"""Shared by all workers: requests as JSON lines on stdin, one JSON line per answer, and clocks.

A worker is one contender in a separate process: warm between its turns, waiting for stdin while others run.
It is started as a script, so this folder is its ``sys.path[0]``; it must run in any peer's environment and
therefore imports only the standard library.
"""

from __future__ import annotations

import contextlib
import glob
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

Answer = dict[str, Any]

# Libraries may print to stdout, even on import: redirect that to stderr, and answers to the original stdout.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def serve(handlers: Any) -> None:
    """Answer requests ``{"do": method, ...}`` until stdin ends; an exception ends the process."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(handlers, request.pop("do"))(**request)
        ANSWERS.write(json.dumps(answer) + "\n")
        ANSWERS.flush()


def use_cores(count: int) -> None:
    """Pin this process, and its children, to `count` of the cores that it may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if count > len(allowed):
        raise ValueError(f"{count} cores requested, but this process may use {len(allowed)}")
    os.sched_setaffinity(0, allowed[:count])


def cpu_seconds() -> float:
    """Return the CPU time of this process, all its threads, and its children, dead or alive."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = sum(ticks_of(child) for child in descendants(os.getpid()))
    return sum(part.ru_utime + part.ru_stime for part in parts) + alive / os.sysconf("SC_CLK_TCK")


def descendants(process: int) -> list[int]:
    """Return the ids of a process's living descendants."""
    found = []
    for path in glob.glob(f"/proc/{process}/task/*/children"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            for child in map(int, file.read().split()):
                found += [child, *descendants(child)]
    return found


def ticks_of(process: int) -> int:
    """Return the clock ticks of a process, all its threads and the children it waited for; 0 if it ended."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # after the name, which may contain anything
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


def busy_seconds(stat: str, cores: Iterable[int]) -> float:
    """Return the CPU time of all processes, and that stolen by the host, on some cores, from /proc/stat."""
    wanted, ticks = {f"cpu{core}" for core in cores}, 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def machine_busy_seconds() -> float:
    """Return `busy_seconds` of the cores that this process may use."""
    with open("/proc/stat", encoding="ascii") as file:
        return busy_seconds(file.read(), os.sched_getaffinity(0))


class Clock:
    """Measures seconds, CPU seconds, and CPU seconds of other processes on the same cores."""

    def __init__(self) -> None:
        self._busy, self._cpu, self._start = machine_busy_seconds(), cpu_seconds(), time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since construction."""
        return time.perf_counter() - self._start

    def answer(self) -> Answer:
        """Return all three, since construction."""
        seconds, cpu = self.seconds(), cpu_seconds() - self._cpu
        others = max(0.0, machine_busy_seconds() - self._busy - cpu)
        return {"seconds": seconds, "cpu_seconds": cpu, "others_cpu_seconds": others}


def memory_bytes() -> dict[str, int]:
    """Return the resident memory, and the part that is not pages of mapped files."""
    with open("/proc/self/status", encoding="ascii") as status:
        found = dict(line.split(":", 1) for line in status)
    return {
        name: int(found[key].split()[0]) * 1024 for name, key in (("rss", "VmRSS"), ("anonymous", "RssAnon"))
    }


def opened(make: Callable[[], Any]) -> tuple[Any, Answer]:
    """Construct a loader; returns it, and the seconds and growth of `memory_bytes`."""
    before, clock = memory_bytes(), Clock()
    loader = make()
    answer = clock.answer()
    growth = {name: value - before[name] for name, value in memory_bytes().items()}
    return loader, answer | {
        "loader_seconds": answer["seconds"], "loader_growth": growth, "batches": len(loader)
    }  # fmt: skip


def epoch_of(loader: Any, limit: int | None = None) -> Answer:
    """Run an epoch, dropping its batches; returns seconds to the first batch and in all, CPU seconds, images.

    `limit` ends the epoch after that many images.
    """
    images, first, clock = 0, 0.0, Clock()
    for batch in loader:
        if not images:
            first = clock.seconds()
        images += len(batch[0])
        if limit is not None and images >= limit:
            break
    return clock.answer() | {"images": images, "first_batch_seconds": first}


def first_batch_of(make: Callable[[], Any]) -> tuple[Any, Answer]:
    """Make a loader and run its first epoch; returns it, and seconds to construct and to the first batch."""
    clock = Clock()
    loader = make()
    made = clock.seconds()
    batches = iter(loader)
    if next(batches, None) is None:
        raise ValueError("an epoch has no batch: fewer samples than one batch needs")
    first = clock.seconds()
    for _ in batches:
        pass
    return loader, {"construct_seconds": made, "first_batch_seconds": first}


class Photographs:
    """(image, label) for `count` samples: the files of a list, repeated; `load` makes the image of a path."""

    def __init__(self, listing: str, count: int, load: Callable[[str], Any]) -> None:
        with open(listing, encoding="utf-8") as file:
            self.paths: list[str] = json.load(file)
        self.count, self.load = count, load

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.load(self.paths[index % len(self.paths)]), index


def pillow_rgb(path: str) -> Any:
    """Return the photo as torchvision's ImageFolder would."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def timed_write(write: Callable[[], Any], target: str, count: int) -> Answer:
    """Time `write`, which writes `count` samples to the file `target`."""
    clock = Clock()
    write()
    seconds = clock.seconds()
    # FFCV does not wait for its processes; their CPU time counts as this process's only after a wait.
    for child in multiprocessing.active_children():
        child.join()
    return clock.answer() | {"seconds": seconds, "images": count, "file_bytes": os.path.getsize(target)}

"""What every worker shares: requests as JSON lines on stdin, one JSON line of answer each, and clocks.

A worker is one contender in a process of its own: warm between its runs, asleep on stdin while another one
runs. It is started as a script, so this folder is its ``sys.path[0]``; it must run in any peer's environment
and therefore imports the standard library alone.
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

# Libraries print to stdout as they please, from their import on: from here that goes to stderr, and the
# answers to where stdout was.
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
    """Keep this process, and what it starts, on `count` of the cores it may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if count > len(allowed):
        raise ValueError(f"{count} cores asked for, {len(allowed)} given to this process")
    os.sched_setaffinity(0, allowed[:count])


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and its children: waited for, or alive (by their ticks)."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = sum(ticks_of(child) for child in descendants(os.getpid()))
    return sum(part.ru_utime + part.ru_stime for part in parts) + alive / os.sysconf("SC_CLK_TCK")


def descendants(process: int) -> list[int]:
    """Return the ids of a process's children that are alive, of theirs, and so on."""
    found = []
    for path in glob.glob(f"/proc/{process}/task/*/children"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            for child in map(int, file.read().split()):
                found += [child, *descendants(child)]
    return found


def ticks_of(process: int) -> int:
    """Clock ticks that a process, all its threads and the children it has waited for have had; 0 if gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # behind the name, which may hold anything
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


def busy_seconds(stat: str, cores: Iterable[int]) -> float:
    """CPU time, of all processes and of what the host took for others, on some cores, from /proc/stat."""
    wanted, ticks = {f"cpu{core}" for core in cores}, 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def machine_busy_seconds() -> float:
    """`busy_seconds` of the cores that this process may use."""
    with open("/proc/stat", encoding="ascii") as file:
        return busy_seconds(file.read(), os.sched_getaffinity(0))


class Clock:
    """Seconds, CPU seconds, and CPU seconds that other processes had meanwhile on the same cores."""

    def __init__(self) -> None:
        self._busy, self._cpu, self._start = machine_busy_seconds(), cpu_seconds(), time.perf_counter()

    def seconds(self) -> float:
        """Seconds since this was made."""
        return time.perf_counter() - self._start

    def answer(self) -> Answer:
        """All three, since this was made."""
        seconds, cpu = self.seconds(), cpu_seconds() - self._cpu
        others = max(0.0, machine_busy_seconds() - self._busy - cpu)
        return {"seconds": seconds, "cpu_seconds": cpu, "others_cpu_seconds": others}


def memory_bytes() -> dict[str, int]:
    """Resident memory: all of it, and the part that is not a mapped file's pages."""
    with open("/proc/self/status", encoding="ascii") as status:
        found = dict(line.split(":", 1) for line in status)
    return {
        name: int(found[key].split()[0]) * 1024 for name, key in (("rss", "VmRSS"), ("anonymous", "RssAnon"))
    }


def opened(make: Callable[[], Any]) -> tuple[Any, Answer]:
    """Construct a loader: (loader, seconds and growth of `memory_bytes`)."""
    before, clock = memory_bytes(), Clock()
    loader = make()
    answer = clock.answer()
    growth = {name: value - before[name] for name, value in memory_bytes().items()}
    return loader, answer | {
        "loader_seconds": answer["seconds"], "loader_growth": growth, "batches": len(loader)
    }  # fmt: skip


def epoch_of(loader: Any, limit: int | None = None) -> Answer:
    """Run one epoch and drop every batch; seconds to the first batch and to the end, CPU seconds, images.

    With a limit the epoch is left after so many images.
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
    """Make a loader and run it for the first time: (loader, seconds to construct and to a batch)."""
    clock = Clock()
    loader = make()
    made = clock.seconds()
    batches = iter(loader)
    next(batches)
    first = clock.seconds()
    for _ in batches:
        pass
    return loader, {"construct_seconds": made, "first_batch_seconds": first}


class Photographs:
    """(image, label) for `count` samples: the files of a list, over and over; `load` makes the image."""

    def __init__(self, listing: str, count: int, load: Callable[[str], Any]) -> None:
        with open(listing, encoding="utf-8") as file:
            self.paths: list[str] = json.load(file)
        self.count, self.load = count, load

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.load(self.paths[index % len(self.paths)]), index


def pillow_rgb(path: str) -> Any:
    """The photo as torchvision's ImageFolder would give it."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def timed_write(write: Callable[[], Any], target: str, count: int) -> Answer:
    """Time `write`, which makes the file `target` of `count` samples."""
    clock = Clock()
    write()
    seconds = clock.seconds()
    # FFCV does not wait for its processes: their CPU time is its own only once somebody has.
    for child in multiprocessing.active_children():
        child.join()
    return clock.answer() | {"seconds": seconds, "images": count, "file_bytes": os.path.getsize(target)}

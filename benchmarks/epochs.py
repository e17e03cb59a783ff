"""One turn of a loader: epochs until the turn is long enough, and their peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.cache import drop, resident_share
from benchmarks.harness import Answer, Worker
from benchmarks.watch import Peak

__all__ = ["for_images", "for_seconds", "from_cold"]

SUMMED = ("seconds", "cpu_seconds", "others_cpu_seconds", "images")


def for_seconds(worker: Worker, least: float) -> Answer:
    """Run whole epochs until they have taken at least `least` seconds."""
    peak, answers = Peak(), list[Answer]()
    while not answers or sum(answer["seconds"] for answer in answers) < least:
        answers.append(worker.ask("epoch", peak=peak))
    return added(answers, peak)


def for_images(worker: Worker, count: int) -> Answer:
    """Run epochs until `count` images have been loaded; the last one is cut there."""
    peak, answers, left = Peak(), list[Answer](), count
    while left > 0:
        answers.append(worker.ask("epoch", peak=peak, limit=left))
        left -= answers[-1]["images"]
    return added(answers, peak)


def from_cold(worker: Worker, path: Path) -> Answer:
    """Run one epoch of a file just dropped from the page cache; adds the shares cached before and after."""
    before, peak = drop(path), Peak()
    answer = added([worker.ask("epoch", peak=peak)], peak)
    return answer | {"resident_before": before, "resident_after": resident_share(path)}


def added(answers: Sequence[Answer], peak: Peak) -> Answer:
    """Add answers up to one."""
    sums = {key: sum(answer[key] for answer in answers) for key in SUMMED}
    if "stage_seconds" in answers[0]:
        stages = [answer["stage_seconds"] for answer in answers]
        sums["stage_seconds"] = {name: sum(stage.get(name, 0.0) for stage in stages) for name in stages[0]}
    first = {"first_batch_seconds": answers[0]["first_batch_seconds"]}
    return sums | first | {"epochs": len(answers), "peak_bytes": peak.bytes}

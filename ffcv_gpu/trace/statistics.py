"""Snapshots of a clock: seconds, calls and items per stage, printed as a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BETRAYS", "StageStats", "StageTime", "betrays"]

#: for each stage of a loader: what it means if most of the time is spent there
BETRAYS: Mapping[str, str] = {
    "plan": "one thread draws all parameters: batches too small, or a costly custom step",
    "read": "storage: not in the page cache, or a slow disk or network; use a smaller file or more memory",
    "check": "checksums: memory bandwidth, or pages first touched here, which are then read from disk",
    "gather": "large arrays or bytes fields: memory bandwidth; store a smaller dtype or shape",
    "decode": "JPEG decoding: too few cores, or images stored larger than the crops need",
    "cpu decode": "JPEGs that the CPU decodes for a GPU (by cpu_share=, or as nvJPEG cannot): too few cores",
    "compose": "resampling and augmentation: too few cores, or a large output size or source crops",
    "operate": "FFCV-style operations, compiled, and steps after them: too few cores, or a costly function",
    "scan": "JPEG headers of a file without JPEG facts (not written by ffcv_gpu), in its first epoch only",
    "submit": "JPEG decoding by nvJPEG, whose call blocks while the engines decode: more JPEG bytes than the "
    "crops need, or many images decoded one by one (see the counts)",
    "launch": "kernel launches on the GPU: the first one compiles; otherwise, batches too small",
    "finish": "steps after the fused launch: torch modules, reshapes, or copies listed by `explain()`",
    "wait": "the loader is slower than your loop: look at the largest other stage",
    "ahead": "your loop is slower than the loader: finished batches wait for it",
}
#: what "decode" means if JPEGs are submitted to a GPU: one thread's wait for it
_ON_GPU = (
    "JPEG decoding on the GPU: images larger than the crops need, batches too small, slow routes (see counts)"
)


def betrays(stage: str, stages: Collection[str]) -> str:
    """Return what it means if most of the time is spent in `stage` of `stages`; "" for a custom stage."""
    return _ON_GPU if stage == "decode" and "submit" in stages else BETRAYS.get(stage, "")


@dataclass(frozen=True)
class StageTime:
    """Totals of one stage since the clock was created or reset.

    Attributes
    ----------
    seconds : float
        Wall-clock seconds inside the stage, summed over threads: with 8 threads, up to 8 per second. While
        ``wait`` is large, the largest of the worker stages is the bottleneck.
    calls : int
        How often the stage was entered, including failures. Many calls of few items each indicate batches
        split too finely to pay for their overhead.
    items : int
        Samples (or outputs of samples) processed. Fewer than expected indicates work that is skipped or
        shared; more indicates work done twice.
    """

    seconds: float
    calls: int
    items: int

    @property
    def microseconds_per_item(self) -> float:
        """Microseconds of one core per item, nan without items; compare it with a bare decode or resize.

        A value far above the stage's cost alone indicates threads that compete for cores, memory or the GIL.
        """
        return self.seconds * 1e6 / self.items if self.items else float("nan")


@dataclass(frozen=True)
class StageStats:
    """A copy of a `StageClock` at one moment; prints as a table.

    Attributes
    ----------
    elapsed_seconds : float
        Wall-clock seconds since the clock was created or reset. A stage's seconds divided by this is the
        number of threads it kept busy; a total far below the number of workers indicates a loader that
        waits for its consumer.
    stages : dict of str to StageTime
        By stage, in the order in which each first finished.
    counts : dict of str to int
        How many items took each route, such as ``"jpeg: turbo"`` or ``"raw: from the file"``. An unexpected
        route indicates a fallback, or a file that is not stored as you expect.
    """

    elapsed_seconds: float
    stages: Mapping[str, StageTime]
    counts: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return a copy as nested dicts and numbers, ready for `json.dumps`."""
        return asdict(self)

    def since(self, earlier: StageStats) -> StageStats:
        """Return the difference to `earlier`, a snapshot of the same clock without a reset in between."""
        stages = {}
        for name, now in self.stages.items():
            then = earlier.stages.get(name, StageTime(0.0, 0, 0))
            if now.calls > then.calls:
                stages[name] = StageTime(
                    now.seconds - then.seconds, now.calls - then.calls, now.items - then.items
                )
        counts = {name: number - earlier.counts.get(name, 0) for name, number in self.counts.items()}
        counts = {name: number for name, number in counts.items() if number}
        return StageStats(self.elapsed_seconds - earlier.elapsed_seconds, stages, counts)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show it in a notebook as ``print`` does."""
        printer.text(str(self))

    def __str__(self) -> str:
        rows = [("stage", "seconds", "calls", "items", "us/item", "if large")]
        for name, time in sorted(self.stages.items(), key=lambda stage: -stage[1].seconds):
            each = f"{time.microseconds_per_item:.1f}" if time.items else "-"
            seconds, calls, items = f"{time.seconds:.3f}", str(time.calls), str(time.items)
            rows.append((name, seconds, calls, items, each, betrays(name, self.stages)))
        lines = [f"{self.elapsed_seconds:.3f} s elapsed; the stages' seconds are summed over threads"]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for row in rows:
            numbers = (cell.rjust(width) for cell, width in zip(row[1:5], widths[1:], strict=True))
            lines.append("  ".join([row[0].ljust(widths[0]), *numbers, row[5]]).rstrip())
        widest = max(map(len, self.counts), default=0)
        lines += [f"{name.ljust(widest)}  {count}" for name, count in sorted(self.counts.items())]
        return "\n".join(lines)

"""The picture of ``train``, from its JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.record import Row, load

__all__ = ["plot"]

STEP, LOADER, IDLE = "#4878a8", "#d1703c", "#cccccc"


def plot(source: Path, target: Path) -> Path:
    """Draw the first case of a result of ``train``; returns `target`.

    Raises
    ------
    ValueError
        If `source` is no such result, or nothing of it was run.
    ImportError
        Without matplotlib.
    """
    record = load(source)
    if record.benchmark != "train":
        raise ValueError(f"{source}: a result of {record.benchmark!r}, not of 'train'")
    rows = [row for row in record.rows if row.values and row.case == record.rows[0].case]
    if not rows:
        raise ValueError(f"{source}: nothing in it was run")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, 3, figsize=(12, 0.5 * len(rows) + 1.6), layout="constrained", sharey=True
    )
    draw_rates(axes[0], rows)
    draw_epochs(axes[1], rows)
    draw_cpu(axes[2], rows)
    axes[0].set_yticks(range(len(rows)), [row.name for row in rows])
    axes[0].invert_yaxis()
    figure.suptitle(f"{rows[0].case}, {record.machine['cpu']}; medians of {len(rows[0].repeats)} turns")
    figure.savefig(target, dpi=90)
    pyplot.close(figure)
    return target


def median(row: Row, metric: str) -> float:
    """Return the median of a metric."""
    return row.values[metric]["median"]


def draw_rates(axis: Any, rows: list[Row]) -> None:
    """Samples a second, from least to greatest, and what the step alone reaches."""
    for place, row in enumerate(rows):
        value = row.values["samples/s"]
        spread = [[value["median"] - value["min"]], [value["max"] - value["median"]]]
        axis.barh(place, value["median"], xerr=spread, color=STEP)
    axis.axvline(median(rows[0], "samples/s"), color="black", linewidth=1, linestyle=":")
    axis.set(title="samples/s")


def draw_epochs(axis: Any, rows: list[Row]) -> None:
    """Seconds of an epoch, and how many of them the loop waited for data."""
    for place, row in enumerate(rows):
        wait = median(row, "waiting for data")
        step = median(row, "an epoch") - wait
        axis.barh(place, step, color=STEP, label=None if place else "step")
        axis.barh(place, wait, left=step, color=LOADER, label=None if place else "waiting for data")
    axis.set(title="an epoch, s")
    axis.legend(fontsize="small")


def draw_cpu(axis: Any, rows: list[Row]) -> None:
    """CPU seconds of an epoch: the step's, the loader's, and what nobody used."""
    for place, row in enumerate(rows):
        images, seconds = row.repeats[0]["images"], median(row, "an epoch")
        loader = max(0.0, median(row, "the loader's CPU seconds") * images / 1000)
        idle = median(row, "idle CPU") / 100 * row.settings["cores"] * seconds
        total = sorted(answer["cpu_seconds"] for answer in row.repeats)[len(row.repeats) // 2]
        left = 0.0
        for part, colour, label in (
            (total - loader, STEP, "step"),
            (loader, LOADER, "loader"),
            (idle, IDLE, "idle"),
        ):
            axis.barh(place, part, left=left, color=colour, label=None if place else label)
            left += part
    axis.set(title="CPU seconds of an epoch")
    axis.legend(fontsize="small")

"""The picture of ``train``, from its record alone."""

from __future__ import annotations

from typing import Any

from benchmarks.plots import spread
from benchmarks.record import Record, Row

__all__ = ["training"]

STEP, LOADER, IDLE = "#4878a8", "#d1703c", "#cccccc"


def training(record: Record, figure: Any) -> bool:
    """Draw rates, epochs and CPU time of the first case; returns whether any of it ran."""
    rows = [row for row in record.rows if row.values and row.case == record.rows[0].case]
    if not rows:
        return False
    figure.set_size_inches(11, 0.45 * len(rows) + 1.5)
    axes = figure.subplots(1, 3, sharey=True)
    draw_rates(axes[0], rows)
    draw_epochs(axes[1], rows)
    draw_cpu(axes[2], rows)
    axes[0].set_yticks(range(len(rows)), [row.name for row in rows])
    axes[0].invert_yaxis()
    figure.suptitle(f"{rows[0].case}; medians of {len(rows[0].repeats)} turns", fontsize=10)
    return True


def median(row: Row, metric: str) -> float:
    """Return the median of a metric."""
    return row.values[metric]["median"]


def draw_rates(axis: Any, rows: list[Row]) -> None:
    """Draw samples/s with error bars from min to max, and a line at the step alone."""
    for place, row in enumerate(rows):
        value = row.values["samples/s"]
        axis.barh(place, value["median"], xerr=spread(value), color=STEP)
    axis.axvline(median(rows[0], "samples/s"), color="black", linewidth=1, linestyle=":")
    axis.set_title("samples/s", fontsize=10)


def draw_epochs(axis: Any, rows: list[Row]) -> None:
    """Draw the seconds per epoch, and those spent waiting for data."""
    for place, row in enumerate(rows):
        wait = median(row, "waiting for data")
        step = median(row, "an epoch") - wait
        axis.barh(place, step, color=STEP, label=None if place else "step")
        axis.barh(place, wait, left=step, color=LOADER, label=None if place else "waiting for data")
    axis.set_title("an epoch, s", fontsize=10)
    below(axis)


def draw_cpu(axis: Any, rows: list[Row]) -> None:
    """Draw the CPU seconds per epoch: of the step, of the loader, and idle."""
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
    axis.set_title("CPU seconds of an epoch", fontsize=10)
    below(axis)


def below(axis: Any) -> None:
    """Put the legend under the axis, where it hides no bar."""
    axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)

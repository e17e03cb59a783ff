"""Pictures of results, drawn with matplotlib (the ``bench`` extra) from a record alone.

Each function draws on an empty figure and returns whether there was anything to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.record import Record, Row

__all__ = ["bars", "core_words", "fractions", "growth", "spread"]

#: colours that the colour-blind can tell apart (Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
OTHERS = "#999999"


def bars(record: Record, figure: Any, metric: str = "images/s") -> bool:
    """Draw a bar per contender and case, with error bars from min to max; ours coloured."""
    blocks = [row for row in record.rows if row.settings.get("block", "headline") == "headline"]
    cases = list(dict.fromkeys(row.case for row in blocks if metric in row.values))
    if not cases:
        return False
    shown = {case: [row for row in blocks if row.case == case and metric in row.values] for case in cases}
    figure.set_size_inches(8, 0.9 * len(cases) + 0.27 * sum(map(len, shown.values())))
    heights = [len(rows) for rows in shown.values()]
    for axis, case in zip(panels(figure, len(cases), 1, height_ratios=heights), cases, strict=True):
        for place, row in enumerate(shown[case]):
            value = row.values[metric]
            colour = COLOURS[0] if is_ours(row.name) else OTHERS
            axis.barh(place, value["median"], xerr=spread(value), color=colour, height=0.7, ecolor="#444444")
            axis.text(value["max"], place, f"  {value['median']:,.0f}", va="center", fontsize=8)
        axis.set_yticks(range(len(shown[case])), [row.name for row in shown[case]], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"{case}: {metric}", fontsize=9, loc="left")
        axis.set_xlim(0, 1.15 * max(row.values[metric]["max"] for row in shown[case]))
    return True


def fractions(record: Record, figure: Any) -> bool:
    """Draw images/s against the share of JPEGs, a line per contender and number of cores."""
    rows = [row for row in record.rows if row.settings.get("block") == "fractions" and row.values]
    if not rows:
        return False
    figure.set_size_inches(8, 3.6)
    ((axis),) = panels(figure, 1, 1)
    names = list(dict.fromkeys(row.name for row in rows))
    colours = dict(zip(sorted(names, key=lambda name: not is_ours(name)), COLOURS, strict=False))
    every = sorted({row.settings["cores"] for row in rows})
    for name in names:
        for cores in every:
            line = [row for row in rows if (row.name, row.settings["cores"]) == (name, cores)]
            label, stroke = f"{name}, {core_words(cores)}", dashes(every.index(cores), len(every))
            curve(axis, line, "jpeg_percent", "images/s", label, colours[name], stroke)
    axis.set_xlabel("JPEG, % of the images (the others raw), 500 px")
    axis.set_ylabel("images/s")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.set_xticks(range(0, 101, 25))
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return True


def growth(record: Record, figure: Any) -> bool:
    """Draw, for every axis, the metric that its points are compared by, and the peak memory below."""
    axes = list(dict.fromkeys(row.settings["axis"] for row in record.rows if row.values))
    if not axes:
        return False
    figure.set_size_inches(2.5 * len(axes) + 0.5, 4.6)
    found = panels(figure, 2, len(axes))
    for number, name in enumerate(axes):
        rows = [row for row in record.rows if row.settings["axis"] == name and row.values]
        speed = rows[0].settings["compared"]
        upper, lower = found[number], found[len(axes) + number]
        curve(upper, rows, "point", speed, "", COLOURS[0])
        curve(lower, rows, "point", "peak memory", "", COLOURS[1])
        upper.set_title(speed, fontsize=9)
        lower.set_title("peak memory, MB", fontsize=9)
        for axis in (upper, lower):
            axis.set_ylim(0, 1.15 * axis.dataLim.y1)
            axis.set_xscale("log")
            axis.set_xticks([row.settings["point"] for row in rows],
                            [short(row.settings["point"]) for row in rows])  # fmt: skip
            axis.minorticks_off()
        lower.set_xlabel({"pixels": "pixels, longer side", "samples": "samples in the file"}.get(
            name, name.replace("_", " ")))  # fmt: skip
    return True


def curve(
    axis: Any, rows: Sequence[Row], across: str, metric: str, label: str, colour: str, stroke: Any = "-"
) -> None:
    """Draw medians against a setting, with error bars from min to max."""
    values = [row.values[metric] for row in rows]
    ends = [[value["median"] - value["min"] for value in values],
            [value["max"] - value["median"] for value in values]]  # fmt: skip
    places, medians = [row.settings[across] for row in rows], [value["median"] for value in values]
    axis.errorbar(places, medians, yerr=ends, marker="o", markersize=4, capsize=2, label=label, color=colour,
                  linestyle=stroke)  # fmt: skip


def panels(figure: Any, rows: int, columns: int, **ratios: Any) -> list[Any]:
    """Return empty axes with a light grid, row by row."""
    found = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw=ratios or None).flat)
    for axis in found:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
    return found


def is_ours(name: str) -> bool:
    """Return whether a row is ffcv_gpu's."""
    return name.startswith("ffcv_gpu")


def core_words(count: int) -> str:
    """Format as "1 core", "2 cores"."""
    return f"{count} core{'s' * (count > 1)}"


def spread(value: dict[str, float]) -> list[list[float]]:
    """Return the distances to min and max, as matplotlib's error bars take them."""
    return [[value["median"] - value["min"]], [value["max"] - value["median"]]]


def dashes(place: int, count: int) -> Any:
    """Return a line style: solid for the most cores, shorter dashes for fewer."""
    return "-" if place == count - 1 else (0, (1 + 4 * place / max(1, count - 1), 1.5))


def short(value: int) -> str:
    """Format as "1.28M", "100k"."""
    if value >= 1_000_000:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 10_000 else str(value)

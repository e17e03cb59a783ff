"""Markdown tables of a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.record import Metric, Record, Row

__all__ = ["SPREAD", "cell", "factors", "heading", "markdown", "number", "others", "table"]

#: what ± means
SPREAD = "half of (max - min) / median"


def table(record: Record) -> str:
    """Return the title line, the table and the notes of a record."""
    compared = [metric for metric in record.metrics if metric.ratio]
    head = ["case", "who", *map(heading, record.metrics), *(f"{metric.name}: ratio" for metric in compared)]
    rows = []
    for row in record.rows:
        ratios = [
            f"{factors(row.ratio[m.name])} x {row.reference}" if m.name in row.ratio else "" for m in compared
        ]
        rows.append([row.case, row.name, *(cell(row, m.name) for m in record.metrics), *ratios])
    return "\n".join([title(record), "", *markdown(head, rows), "", *footnotes(record)])


def title(record: Record) -> str:
    """Return what was run, where and when."""
    machine = record.machine
    return (
        f"{record.benchmark}: {machine['cpu']}, {machine['cores_usable']} cores, Python {machine['python']}; "
        f"{record.date}, commit {record.commit}, load average {machine['load_average'][0]}"
    )


def cell(row: Row | None, metric: str, *, ratio: bool = False, spread: bool = True) -> str:
    """Format the median, optionally with its spread and the ratio to the reference."""
    if row is None:
        return ""
    if row.missing:
        return "failed" if row.failed else "not run"
    value = row.values.get(metric)
    if value is None:
        return ""
    apart = f" ±{value['spread'] / 2:.0%}" if spread and len(row.repeats) > 1 else ""
    times = f", {factor(row.ratio[metric]['median'])} x" if ratio and metric in row.ratio else ""
    return number(value["median"]) + apart + times


def factor(value: float) -> str:
    """Format a ratio: two decimals, or two significant digits if it is small."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def factors(ratio: Mapping[str, float]) -> str:
    """Format the median, min and max of a ratio."""
    return f"{factor(ratio['median'])} ({factor(ratio['min'])} to {factor(ratio['max'])})"


def heading(metric: Metric) -> str:
    """Return the heading of a metric's column."""
    return f"{metric.name}, {metric.unit}" if metric.unit else metric.name


def footnotes(record: Record) -> list[str]:
    """Return the lines below the table: what is missing, what was measured once, notes."""
    lines = list(absent(record.rows))
    for row in record.rows:
        once = ", ".join(f"{key.replace('_', ' ')} {number(value)}" for key, value in row.once.items())
        lines += [f"- {row.case}, {row.name}, once: {once}"] if once else []
    repeats = max((len(row.repeats) for row in record.rows), default=0)
    lines += [f"- {note}" for note in record.notes]
    share = others(record.rows)
    lines += [f"- other processes used {share:.0%} of the cores"] if share is not None else []
    turns = {0: "no turn", 1: "one turn"}.get(repeats, f"medians of {repeats} turns; ± is {SPREAD}")
    return [*lines, f"- {turns}"]


def absent(rows: Sequence[Row]) -> Iterator[str]:
    """Yield why rows have no values, once per contender and reason."""
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.missing:
            cases.setdefault((row.name, row.missing), []).append(row.case)
    for (name, words), found in cases.items():
        yield f"- {found[0]}, {name}: {words}" if len(found) == 1 else f"- {name}: {words}"


def others(rows: Sequence[Row]) -> float | None:
    """Return the share of the cores' time that other processes used during all turns, or None if unknown."""
    turns = [
        (row.settings.get("cores", 1), a) for row in rows for a in row.repeats if "others_cpu_seconds" in a
    ]
    seconds = sum(cores * answer["seconds"] for cores, answer in turns)
    return sum(answer["others_cpu_seconds"] for _, answer in turns) / seconds if seconds else None


def number(value: float) -> str:
    """Format a number with three significant digits, or as a whole number from 1,000 on."""
    if abs(value) >= 999.5:  # three figures of it would be written with an exponent
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, padded to read well as text."""
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in [head, *rows]]  # fmt: skip
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]

"""Tables, as Markdown, from a result and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.record import Metric, Record, Row

__all__ = ["table"]


def table(record: Record) -> str:
    """Return the title line, the table and the notes of a record."""
    head = ["case", "who", *(f"{m.name}, {m.unit}" if m.unit else m.name for m in record.metrics)]
    compared = [metric for metric in record.metrics if metric.ratio]
    head += [f"{metric.name}: ratio" for metric in compared]
    rows = [[r.case, r.name, *cells(r, record.metrics), *ratio_cells(r, compared)] for r in record.rows]
    return "\n".join([title(record), "", *markdown(head, rows), "", *footnotes(record)])


def title(record: Record) -> str:
    """Say what was run where and when."""
    machine = record.machine
    return (
        f"{record.benchmark}: {machine['cpu']}, {machine['cores_usable']} cores, Python {machine['python']}; "
        f"{record.date}, commit {record.commit}, load average {machine['load_average'][0]}"
    )


def cells(row: Row, metrics: Sequence[Metric]) -> list[str]:
    """One cell a metric: the median and, of several repeats, how far they lie apart."""
    if row.missing:
        return ["not run" if not row.failed else "FAILED", *[""] * (len(metrics) - 1)]
    found = []
    for metric in metrics:
        value = row.values.get(metric.name)
        spread = f" ±{value['spread'] / 2:.0%}" if value and len(row.repeats) > 1 else ""
        found.append(number(value["median"]) + spread if value else "")
    return found


def ratio_cells(row: Row, metrics: Sequence[Metric]) -> list[str]:
    """One cell a compared metric: median ratio, least to greatest, and to whom."""
    found = []
    for metric in metrics:
        value = row.ratio.get(metric.name)
        low, high = (value["min"], value["max"]) if value else (0, 0)
        found.append(f"{value['median']:.2f} ({low:.2f} to {high:.2f}) x {row.reference}" if value else "")
    return found


def footnotes(record: Record) -> list[str]:
    """What was measured once, then the notes."""
    lines = list(absent(record.rows))
    for row in record.rows:
        once = ", ".join(f"{key.replace('_', ' ')} {number(value)}" for key, value in row.once.items())
        lines += [f"- {row.case}, {row.name}, once: {once}"] if once else []
    repeats = max((len(row.repeats) for row in record.rows), default=0)
    lines += [f"- {note}" for note in record.notes]
    share = others(record.rows)
    lines += [f"- other processes had {share:.0%} of the cores meanwhile"] if share is not None else []
    return [*lines, f"- medians of {repeats} turns; ± is half of (greatest - least) / median"]


def absent(rows: Sequence[Row]) -> Iterator[str]:
    """Yield why rows have no values; the same words about the same contender once, whatever the case."""
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.missing:
            cases.setdefault((row.name, row.missing), []).append(row.case)
    for (name, words), found in cases.items():
        yield f"- {found[0]}, {name}: {words}" if len(found) == 1 else f"- {name}: {words}"


def others(rows: Sequence[Row]) -> float | None:
    """Return the share of the cores' time that other processes had during all turns, if it was measured."""
    turns = [
        (row.settings.get("cores", 1), a) for row in rows for a in row.repeats if "others_cpu_seconds" in a
    ]
    seconds = sum(cores * answer["seconds"] for cores, answer in turns)
    return sum(answer["others_cpu_seconds"] for _, answer in turns) / seconds if seconds else None


def number(value: float) -> str:
    """Three or four figures, without an exponent for what people meet."""
    if abs(value) >= 999.5:  # three figures of it would be written with an exponent
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, padded to be read as text."""
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in [head, *rows]]  # fmt: skip
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]

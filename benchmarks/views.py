"""Tables of a result for the documents: each chooses rows and columns, never figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.record import Record, Row
from benchmarks.report import SPREAD, cell, factors, heading, markdown, number, others

__all__ = ["axis_table", "beside", "by_case", "by_name", "by_setting", "listing", "pivot", "source", "unique"]

Label = Callable[[Row], str]
Wanted = Callable[[Row], bool]


def source(record: Record, name: str, folder: str) -> str:
    """Return the line under a table: its file, where that was measured, what the figures are."""
    machine, commit = record.machine, record.commit.split("+")[0][:7] or "unknown"
    changed = " and changes" if record.commit.endswith("+changes") else ""
    share = others(record.rows)
    busy = f"; other processes used {share:.0%} of the cores" if share is not None else ""
    repeats = sorted({len(row.repeats) for row in record.rows if row.repeats})
    counts = " to ".join(dict.fromkeys(map(str, (repeats[0], repeats[-1])))) if repeats else "0"
    turns = "one turn" if counts == "1" else f"medians of {counts} turns, ± {SPREAD}"
    return (
        f"[{name}]({folder}/{name}): commit {commit}{changed}, {record.date[:10]}, {machine['cpu']}, "
        f"{machine['cores_usable']} cores, Python {machine['python']}; {turns}{busy}."
    )


def every(_: Row) -> bool:
    """Select any row."""
    return True


def by_setting(key: str, words: str = "{}") -> Label:
    """Label rows by a setting."""
    return lambda row: words.format(row.settings[key])


def by_name(row: Row) -> str:
    """Label rows by contender."""
    return row.name


def by_case(row: Row) -> str:
    """Label rows by case."""
    return row.case


def pivot(
    record: Record,
    metric: str,
    title: str,
    where: Wanted = every,
    rows: Label = by_name,
    columns: Label = by_case,
    extra: Mapping[str, str] | None = None,
) -> list[str]:
    """Tabulate one metric, contenders in rows and cases in columns, with ratios to the reference.

    Parameters
    ----------
    record
    metric
    title
        heading of the first column
    where
        selects rows of the result
    rows, columns
        labels; both in order of appearance
    extra
        other metrics in the same cell: name -> text after the value
    """
    found = [row for row in record.rows if where(row)]
    heads, names = unique(columns(row) for row in found), unique(rows(row) for row in found)
    at = {(rows(row), columns(row)): row for row in found}

    def words(row: Row | None) -> str:
        more = [cell(row, name, spread=False) + word for name, word in (extra or {}).items()]
        return ", ".join([cell(row, metric, ratio=True), *(more if row and row.values else [])])

    lines = [[name, *(words(at.get((name, head))) for head in heads)] for name in names]
    return [*markdown([title, *heads], lines), *ratio_words(found)] if found else []


def listing(
    record: Record, metrics: Sequence[str] = (), where: Wanted = every, once: Mapping[str, str] | None = None
) -> list[str]:
    """Tabulate all rows with several metrics, as far as the result has them.

    Parameters
    ----------
    record
    metrics
        names; empty: all
    where
        selects rows of the result
    once
        columns of values that were measured once: heading -> name
    """
    found, once = [row for row in record.rows if where(row)], once or {}
    known = {metric.name: metric for metric in record.metrics}
    present = [known[name] for name in metrics or known if any(name in row.values for row in found)]
    keys = {head: key for head, key in once.items() if any(key in row.once for row in found)}
    head = ["case", "who", *map(heading, present), *keys]
    lines = [
        [row.case, row.name, *(cell(row, m.name, ratio=m.ratio) for m in present),
         *(number(row.once[key]) if key in row.once else "" for key in keys.values())]
        for row in found
    ]  # fmt: skip
    return [*markdown(head, lines), *ratio_words(found)] if found and present else []


def beside(record: Record, metric: str, title: str, extra: Sequence[str] = ()) -> list[str]:
    """Tabulate each row with a reference: the reference's value, its own, the ratio, other metrics."""
    known = {one.name: one for one in record.metrics}
    lines, reference = [], ""
    for row in record.rows:
        if not row.reference:
            continue
        base = next(one for one in record.rows if (one.case, one.name) == (row.case, row.reference))
        reference = base.name
        lines.append(
            [f"{row.case}: {row.name}", cell(base, metric), cell(row, metric),
             factors(row.ratio[metric]),
             *(f"{cell(row, one, spread=False)} ({cell(base, one, spread=False)})" for one in extra)]
        )  # fmt: skip
    head = [
        title,
        reference,
        "ffcv_gpu",
        "ratio",
        *(f"{heading(known[name])} ({reference}'s)" for name in extra),
    ]
    return markdown(head, lines) if lines else []


def axis_table(record: Record, metrics: Sequence[str]) -> list[str]:
    """Tabulate points of axes, with their metrics and their ratios to the reference point."""
    known = {one.name: one for one in record.metrics}
    lines = []
    for row in record.rows:
        ratio = row.ratio.get(row.settings["compared"])
        words = factors(ratio) if ratio else "1"
        lines.append([row.name, *(cell(row, name) for name in metrics),
                      "" if row.missing else f"{row.settings['compared']}: {words}"])  # fmt: skip
    head = ["", *(heading(known[name]) for name in metrics), "ratio to the reference point (1)"]
    return markdown(head, lines) if lines else []


def ratio_words(rows: Sequence[Row]) -> list[str]:
    """Explain "x", if the table has ratios."""
    names = unique(row.reference for row in rows if row.reference)
    whom = " or ".join(names) if len(names) < 3 else "the row of the same kind without a ratio"
    return ["", f"x: ratio to {whom}, taken turn by turn."] if names else []


def unique(values: Iterable[str]) -> list[str]:
    """Return each value once, in order of appearance."""
    return list(dict.fromkeys(values))

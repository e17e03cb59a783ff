"""Tables of GPU results, from their JSON lines alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import Row, Run, last_run
from benchmarks.gpu.suite import chosen
from benchmarks.report import markdown, number

__all__ = ["commits", "details", "load", "notes", "overview", "overview_lines", "places"]

HIDDEN = ("row", "case", "name", "repeats", "spread", "passed", "must")
RESULT = (
    ("images_per_second", "images/s"),
    ("gigapixels_per_second", "GP/s"),
    ("cpu_us_per_image", "CPU us/image"),
    ("p95_over_median", "p95/median"),
    ("share_in_calls", "in calls"),
)


def load(path: Path) -> list[Run]:
    """Return the latest run of each file of a folder, or of one file; `ValueError` if there is none."""
    if path.is_dir():
        order = {e.name: k for k, e in enumerate(chosen(rehearsal=True))}
        paths = sorted(path.glob("*.jsonl"), key=lambda p: (order.get(p.stem, len(order)), p.stem))
    else:
        paths = [path]
    found = [run for run in map(last_run, paths) if run is not None]
    if not found:
        raise ValueError(f"{path}: no result of this suite in it")
    return found


def place_of(run: Run) -> str:
    """Describe where a run was measured."""
    gpu, machine = run.start["gpu"], run.start["machine"]
    label = f"{run.start['rehearsal'].upper()}\n" if "rehearsal" in run.start else ""
    version = ".".join(map(str, gpu.get("nvjpeg", ())))
    return (
        f"{label}{gpu['gpu']}, driver {gpu.get('driver', '?')}, nvJPEG {version}; {machine['cpu']}, "
        f"{machine['cores_usable']} cores, Python {machine['python']}"
    )


def places(found: Sequence[Run]) -> str:
    """Describe every place where these runs were measured; usually it is one."""
    return "; and ".join(dict.fromkeys(map(place_of, found)))


def shortened(commit: str) -> str:
    """Shorten a commit to nine digits; a suffix such as "+changes" stays."""
    name, plus, more = commit.partition("+")
    return name[:9] + plus + more


def commits(found: Sequence[Run]) -> str:
    """Return the commits that were measured, oldest first."""
    names = list(dict.fromkeys(run.start["commit"] for run in sorted(found, key=lambda r: r.start["date"])))
    return f"commit{'s' * (len(names) > 1)} {', '.join(names)}"


def overview(found: Sequence[Run], outcome: Mapping[str, str] | None = None) -> str:
    """Return where it was measured, a line per experiment, and notes."""
    where = f"{places(found)}; {commits(found)}"
    return "\n".join([where, "", *overview_lines(found, outcome), "", *notes(found)])


def overview_lines(found: Sequence[Run], outcome: Mapping[str, str] | None = None) -> list[str]:
    """Return a table with a line per experiment."""
    questions = {e.name: e.question for e in chosen(rehearsal=True)}
    lines = []
    for run in found:
        checks = [row for row in run.rows if row["row"] == "check"]
        best = max(
            (r for r in run.rows if r["row"] == "result"),
            key=lambda r: r.get("images_per_second", 0),
            default={},
        )
        rate = best.get("images_per_second")
        status = (outcome or {}).get(run.name, run.status)
        checked = f"{len(checks) - len(run.failed_checks)} of {len(checks)}" if checks else ""
        lines.append(
            [
                run.name,
                questions.get(run.name, ""),
                shortened(run.start["commit"]),
                status,
                f"{run.end.get('seconds', '')}",
                checked,
                f"{number(rate)}: {best['case']}" if rate else "",
            ]
        )
    head = ["experiment", "question", "commit", "status", "s", "checks held", "best images/s"]
    return markdown(head, lines)


def notes(found: Sequence[Run]) -> list[str]:
    """Return the checks that did not hold, and the messages of what did not end well."""
    return [line for run in found for line in (*not_held(run), *endings(run))]


def endings(run: Run) -> list[str]:
    """Return the message of a run that did not end well, and the number of unreadable lines."""
    words = str(run.end.get("said", "")).strip().splitlines()
    # The message of an exception is its last line; a traceback of a crash or hang begins with its place.
    ends = {"failed": words[-1:], "ended early": words[:1]}
    said = next(iter(ends.get(run.status, [w for w in words if "line" in w])), "")
    said = said.strip().removeprefix(f"{run.status}: ")
    lines = [f"- {run.name}, {run.status}: {said}"] if words else []
    return [*lines, *([f"- {run.name}: {run.damaged} unreadable lines"] if run.damaged else [])]


def not_held(run: Run) -> list[str]:
    """Return the checks that did not hold; a check of several cases ("case: check") as one line."""
    alike: dict[tuple[bool, str], list[Row]] = {}
    for row in run.failed_checks:
        alike.setdefault((bool(row.get("must")), str(row.get("name")).rpartition(": ")[2]), []).append(row)
    lines = []
    for (must, asked), rows in alike.items():
        words = f"{rows[0].get('name')}{values(rows[0])}"
        if len(rows) > 1:
            words = f"{asked}, in {len(rows)} cases{values(spans(rows))}"
        lines.append(f"- {run.name}: {'FAILED' if must else 'does not hold'}: {words}")
    return lines


def spans(rows: Sequence[Row]) -> Row:
    """Return the ranges of the numbers in some rows."""
    found = {key: [row[key] for row in rows if key in row] for key in rows[0] if key not in HIDDEN}
    return {
        key: " to ".join(dict.fromkeys(number(float(edge)) for edge in (min(given), max(given))))
        for key, given in found.items()
        if all(isinstance(value, int | float) for value in given)
    }


def details(run: Run) -> str:
    """Return everything of one run except its repeats."""
    lines = [
        f"{place_of(run)}; {commits([run])}",
        "",
        f"{run.name}: {run.status}, {run.end.get('seconds', '?')} s, {run.start['date']}",
        "",
    ]
    results = [row for row in run.rows if row["row"] == "result"]
    if results:
        columns = [(key, name) for key, name in RESULT if any(key in row for row in results)]
        shown = {key for key, _ in columns}
        head = ["case", *(name for _, name in columns), "more"]
        lines += markdown(
            head,
            [
                [
                    row["case"],
                    *(cell(row, key) for key, _ in columns),
                    values(row, hide=shown).removeprefix("; "),
                ]
                for row in results
            ],
        )
    for row in run.rows:
        if row["row"] == "fact":
            lines.append(f"- {row.get('name')}{values(row)}")
        if row["row"] == "check":
            lines.append(f"- {'holds' if row['passed'] else 'does not hold'}: {row.get('name')}{values(row)}")
    return "\n".join([*lines, *endings(run)])


def cell(row: Row, key: str) -> str:
    if key not in row:
        return ""
    spread = f" ±{row['spread'] / 2:.0%}" if key == "images_per_second" and "spread" in row else ""
    return number(row[key]) + spread


def values(row: Row, hide: Sequence[str] | set[str] = ()) -> str:
    """Format a row's additional values as "; key value, key value"."""
    left = [f"{k.replace('_', ' ')} {text(v)}" for k, v in row.items() if k not in HIDDEN and k not in hide]
    return "; " + ", ".join(left) if left else ""


def text(value: Any) -> str:
    """Format a value; of text, the first line (the others of a NumPy assertion are details)."""
    return number(value) if isinstance(value, float) else next(iter(str(value).splitlines()), "")

"""JSON lines: a kill loses at most the line being written; unreadable lines are counted and skipped.

A file holds the runs of one experiment, one after the other: a "start" row with everything that the run
depends on, the experiment's rows, and an "end" row with its status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["SCHEMA", "Row", "Run", "append", "kept_cases", "last_run", "runs"]

SCHEMA = 1
Row = dict[str, Any]


@dataclass
class Run:
    """One run of one experiment.

    Attributes
    ----------
    start
        with ``key``: what a result depends on
    rows
    end
        empty if the run was killed before it was written
    damaged
        number of unreadable lines
    """

    start: Row
    rows: list[Row] = field(default_factory=list)
    end: Row = field(default_factory=dict)
    damaged: int = 0

    @property
    def name(self) -> str:
        return str(self.start["experiment"])

    @property
    def status(self) -> str:
        return str(self.end.get("status", "cut off"))

    @property
    def failed_checks(self) -> list[Row]:
        return [row for row in self.rows if row.get("row") == "check" and not row["passed"]]

    def finished(self, key: Mapping[str, Any]) -> bool:
        """Return whether it is complete, under these conditions."""
        return self.status == "done" and self.start.get("key") == dict(key)


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row; starts a new line if a killed process has left half a line."""
    text = json.dumps(row, allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        size = file.seek(0, 2)
        if size:
            file.seek(size - 1)
            text = text if file.read(1) == b"\n" else b"\n" + text
        file.write(text)


def runs(path: Path) -> list[Run]:
    """Return the runs of a file, oldest first; runs of another schema are skipped."""
    found: list[Run] = []
    run: Run | None = None
    for line in path.read_bytes().splitlines():
        row = _row(line)
        if row is not None and row["row"] == "start":
            run = Run(row) if row.get("schema") == SCHEMA else None
            found += [run] if run is not None else []
        elif run is None:
            continue
        elif row is None:
            run.damaged += 1
        elif row["row"] == "end":
            run.end = row
        else:
            run.rows.append(row)
    return found


def last_run(path: Path) -> Run | None:
    """Return the latest run of a file, or None."""
    return next(iter(reversed(runs(path))), None) if path.exists() else None


def kept_cases(path: Path) -> dict[str, list[Row]]:
    """Return, by case, the rows of every complete case measured by incomplete runs before the last run.

    Goes back to the latest run that was complete, or had other conditions than the last one.
    """
    found: dict[str, list[Row]] = {}
    *before, now = [None, *runs(path)]
    for run in reversed(before):
        if now is None or run is None or run.status == "done" or run.start["key"] != now.start["key"]:
            break
        cases: dict[str, list[Row]] = {}
        for row in run.rows:
            if row["row"] in ("repeat", "result"):
                cases.setdefault(row["case"], []).append({"measured": run.start["date"], **row})
        found = {case: rows for case, rows in cases.items() if rows[-1]["row"] == "result"} | found
    return found


def _row(line: bytes) -> Row | None:
    """Return the row of a line, or None if it is not one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    wanted = {"start": "experiment", "check": "passed", "repeat": "case", "result": "case"}
    if not isinstance(row, dict) or not isinstance(kind := row.get("row"), str):
        return None
    return row if wanted.get(kind, "row") in row else None

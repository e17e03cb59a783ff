"""A benchmark's result: rows with every repeat, and its JSON file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Answer, ratios, summary
from benchmarks.machine import commit, machine_facts, now

__all__ = ["SCHEMA", "Metric", "Record", "Row", "load", "save", "write_whole"]

SCHEMA = 1


@dataclass(frozen=True)
class Metric:
    """One column: ``answer[of] * scale`` of a repeat, divided by ``answer[over]`` if that is given.

    Attributes
    ----------
    name, unit
        heading of the column
    of, over
        keys of the answer; nested ones with dots
    ratio
        whether rows are compared with the reference row by this metric
    """

    name: str
    unit: str
    of: str
    over: str = ""
    scale: float = 1.0
    ratio: bool = False

    def value(self, answer: Mapping[str, Any]) -> float:
        """Compute the metric of one repeat."""
        value = lookup(answer, self.of) * self.scale
        return value / lookup(answer, self.over) if self.over else value


def lookup(answer: Mapping[str, Any], path: str) -> float:
    """Return ``answer["a"]["b"]`` for "a.b"."""
    value: Any = answer
    for part in path.split("."):
        value = value[part]
    return float(value)


@dataclass
class Row:
    """One contender in one case.

    Attributes
    ----------
    case, name
        what was done, and by whom
    settings
        of this row
    once
        what was measured a single time (such as the first batch, during which compilers run)
    repeats
        the answers, one per round
    values
        by metric: `harness.summary` of the repeats
    ratio
        by metric: summary of the ratio to the reference row, turn by turn
    reference
        name of that row
    missing
        why there are no repeats
    failed
        whether it failed, rather than being absent
    """

    case: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    once: Answer = field(default_factory=dict)
    repeats: list[Answer] = field(default_factory=list)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    ratio: dict[str, dict[str, float]] = field(default_factory=dict)
    reference: str = ""
    missing: str = ""
    failed: bool = False

    def sum_up(self, metrics: Sequence[Metric], reference: Row | None) -> None:
        """Fill `values`, and `ratio` if there is a reference row with repeats."""
        for metric in metrics:
            mine = self._each(metric)
            if not mine:
                continue
            self.values[metric.name] = summary(mine)
            if metric.ratio and reference is not None and reference is not self:
                theirs = reference._each(metric)
                if len(theirs) == len(mine) and all(theirs):  # there is no ratio to 0
                    self.ratio[metric.name], self.reference = ratios(mine, theirs), reference.name

    def _each(self, metric: Metric) -> list[float]:
        return [metric.value(answer) for answer in self.repeats if metric.of.split(".")[0] in answer]


@dataclass
class Record:
    """One run of one benchmark."""

    benchmark: str
    settings: dict[str, Any]
    metrics: list[Metric]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=machine_facts)
    commit: str = field(default_factory=commit)
    date: str = field(default_factory=now)
    schema: int = SCHEMA


def save(record: Record, path: Path) -> None:
    """Write a record as JSON, atomically."""
    write_whole(path, (json.dumps(asdict(record), indent=1, allow_nan=False) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def load(path: Path) -> Record:
    """Read a record; raises `ValueError` naming the file if it is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise ValueError(f"{path}: schema {found['schema']}, this suite reads {SCHEMA}")
        rows = [Row(**row) for row in found.pop("rows")]
        metrics = [Metric(**metric) for metric in found.pop("metrics")]
        return Record(rows=rows, metrics=metrics, **found)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a result of this suite ({error!r})") from error

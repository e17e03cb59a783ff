"""``uses``: what FFCV is used for besides photographs, ffcv_gpu beside FFCV, the same lines for both.

CIFAR-10, tables, numbers, texts, whole images, an operation of one's own, tiny and huge batches, short
epochs, a slow consumer: ``grids/uses.toml``. FFCV writes the files (ffcv_gpu where FFCV is missing), and both
read them from a warm page cache. Each contender has a process of its own; its first epoch, in which FFCV
compiles, is a line of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import grids
from benchmarks.compare import Case, run_case
from benchmarks.files import written
from benchmarks.forecast import Forecast
from benchmarks.harness import Answer, Contender, Worker, started
from benchmarks.options import Bench, cores_option, positive
from benchmarks.peers import FFCV
from benchmarks.record import Metric, Record, Row

__all__ = ["BENCH"]

METRICS = [
    Metric("samples/s", "", "samples", "seconds", ratio=True),
    Metric("CPU per sample", "us", "cpu_seconds", "samples", scale=1e6, ratio=True),
    Metric("CPU per batch", "us", "cpu_seconds", "batches", scale=1e6),
    Metric("first batch of an epoch", "ms", "first_batch_seconds", scale=1e3),
    Metric("memory", "MB", "anonymous", scale=1e-6),
    Metric("threads", "", "threads"),
]
SCRIPT = "uses_worker.py"
GRID = grids.read("uses")
REFERENCE = "FFCV"
#: what a case takes on two quiet cores, most of it imports and FFCV's compiler; for the forecast
CASE_SECONDS = 40


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark takes."""
    grids.grid_options(parser)
    cores_option(parser)
    parser.add_argument("--samples", type=positive, help="in each file, at most (default: as the grid says)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn, at least: whole epochs")


def run(arguments: argparse.Namespace) -> Record:
    """Write the files if need be, then run every case."""
    python, missing = FFCV.find(arguments.ffcv_python)
    contenders = (
        Contender(REFERENCE, SCRIPT, {"library": "ffcv"}, python, missing),
        Contender("ffcv_gpu", SCRIPT, {"library": "ffcv_gpu"}),
    )
    asked = [(name, cores) for name in chosen(arguments) for cores in arguments.cores]
    forecast = Forecast([CASE_SECONDS] * len(asked))
    writer, rows = contenders[python is None], list[Row]()
    for name, cores in asked:
        settings = settings_of(name)
        path = file_of(settings.pop("file"), writer, arguments)
        case = Case(f"{name}, {cores} core{'s' * (cores > 1)}", cores, contenders, REFERENCE)
        forecast.step(case.name)
        rows += measured(case, settings | {"path": str(path)}, arguments)
    notes = [f"files written by {writer.name}", "seed 0, num_workers as many as cores"]
    return Record("uses", {"seconds": arguments.seconds}, METRICS, rows, notes)


def chosen(arguments: argparse.Namespace) -> list[str]:
    """The cases of the grid that are asked for, in its order."""
    every = [n for n in GRID["cases"] if arguments.case or arguments.grid in settings_of(n)["grids"]]
    names = grids.picked([(name, name) for name in every], arguments.case)
    return [name for name in every if name in names]


def settings_of(name: str) -> dict[str, Any]:
    """What a case is, with what the grid says of all."""
    case: Mapping[str, Any] = GRID["cases"][name]
    own = {key: value for key, value in case.items() if key != "with"}
    return GRID["base"] | own | case["with"]


def file_of(name: str, writer: Contender, arguments: argparse.Namespace) -> Path:
    """Return a file of the grid, written unless it is there."""
    what = dict(GRID["files"][name])
    what["samples"] = min(arguments.samples or what["samples"], what["samples"])
    words = "-".join(str(value) for value in what.values())
    library = writer.settings["library"]

    def write(part: Path) -> None:
        print(f"writing {name}, {what['samples']:,} samples", file=sys.stderr, flush=True)
        cores = len(os.sched_getaffinity(0))
        with started(writer, cores) as (worker, _):
            worker.ask("write", target=str(part), workers=cores, library=library, **what)

    return written(arguments.work / f"uses-{library}-{words}.beton", write).resolve()


def measured(case: Case, settings: dict[str, Any], arguments: argparse.Namespace) -> list[Row]:
    """Run one case."""
    del settings["grids"]

    def prepare(worker: Worker, contender: Contender) -> Answer:
        return worker.ask("open_loader", num_workers=case.cores, **settings, **contender.settings)

    def turn(worker: Worker, _: Contender) -> Answer:
        return worker.ask("epochs", seconds=arguments.seconds)

    rows = run_case(case, METRICS, arguments.turns, turn, prepare)
    for row in rows:
        row.settings |= {key: value for key, value in settings.items() if key != "path"}
    return rows


BENCH = Bench("uses", "what FFCV is used for besides photographs", add_options, run)

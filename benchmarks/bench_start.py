"""``start``: from the start of a Python process to the first batch, in seconds.

A second start: compiled code and byte code are on disk, the file is in the page cache. Every turn is a new
process, compared with processes that only import what a loader needs. FFCV compiles in every process.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from benchmarks.bench_loader import FILES
from benchmarks.compare import Case, run_case
from benchmarks.harness import Answer, Contender, Worker
from benchmarks.options import Bench, positive
from benchmarks.peers import FFCV
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record
from benchmarks.stored import stored_file

__all__ = ["BENCH"]

METRICS = [Metric("first batch", "s", "seconds", ratio=True), Metric("CPU", "s", "cpu_seconds", ratio=True)]
SCRIPT, REFERENCE = "start_worker.py", "import numba"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    parser.add_argument("--samples", type=positive, default=64, help="samples in the file")
    parser.add_argument("--batch-size", type=positive, default=32, help="images per batch")
    parser.add_argument("--side", type=positive, default=224, help="side of the output, in pixels")


def run(arguments: argparse.Namespace) -> Record:
    """Write the file if needed, start every contender once to fill the caches, then take turns."""
    python, missing = FFCV.find(arguments.ffcv_python)
    photos = find_photos(arguments.data, arguments.work)
    path, writer = stored_file(FILES["jpeg"], photos, arguments, python, arguments.samples)
    cores = len(os.sched_getaffinity(0))
    case = Case(FILES["jpeg"].name, cores, tuple(contenders(python, missing)), REFERENCE)
    request = {"path": str(path), "batch_size": arguments.batch_size, "workers": cores,
               "side": arguments.side}  # fmt: skip
    rows = run_case(
        case, METRICS, arguments.turns,
        turn=lambda worker, c: start(worker, c, request),
        prepare=lambda worker, c: {"uncounted_start_seconds": start(worker, c, request)["seconds"]},
    )  # fmt: skip
    settings = {"samples": arguments.samples, "batch_size": arguments.batch_size, "side": arguments.side,
                "order": "RANDOM", "cache": "warm", "output": "float16, normalised"}  # fmt: skip
    notes = [f"the file was written by {writer}", "arrays are (N, H, W, 3), tensors (N, 3, H, W)"]
    return Record("start", settings | {"photos": photos.facts()}, METRICS, rows, notes)


def contenders(python: str | None, missing: str | None) -> Iterator[Contender]:
    """Yield the contenders, bare imports first."""
    no_torch = None if find_spec("torch") else "torch is not installed"
    yield Contender(REFERENCE, SCRIPT, {"library": "numba"})
    yield Contender("import torch", SCRIPT, {"library": "torch"}, missing=no_torch)
    own = {"library": "ffcv_gpu"}
    yield Contender("ffcv_gpu, arrays", SCRIPT, own | {"container": "arrays"})
    yield Contender("ffcv_gpu, tensors", SCRIPT, own | {"container": "tensors"}, missing=no_torch)
    peer = {"library": "ffcv", "container": "tensors"}
    yield Contender("FFCV, tensors", SCRIPT, peer, python, missing)


def start(worker: Worker, contender: Contender, request: dict[str, Any]) -> Answer:
    """Time one process; a bare import has nothing to load."""
    more = request if "container" in contender.settings else {}
    return worker.ask("start", **contender.settings, **more)


BENCH = Bench("start", "process start to first batch, against bare imports", add_options, run, rounds=9)

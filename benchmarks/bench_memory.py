"""``memory``: resident memory over many epochs of a small file; a slope would be a leak."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np

from benchmarks.bench_loader import FILES
from benchmarks.compare import Case, run_case
from benchmarks.harness import Answer, Contender, Worker
from benchmarks.options import Bench, positive
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record
from benchmarks.stored import stored_file

__all__ = ["BENCH", "slope"]

METRICS = [
    Metric("slope", "kB per epoch", "slope_bytes", scale=1e-3),
    Metric("first", "MB", "first_bytes", scale=1e-6),
    Metric("last", "MB", "last_bytes", scale=1e-6),
    Metric("peak", "MB", "peak_bytes", scale=1e-6),
]

OUTPUTS = ("uint8", "float16")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    parser.add_argument("--samples", type=positive, default=256, help="samples in the file")
    parser.add_argument("--epochs", type=positive, default=50, help="epochs that are measured")
    # During these, buffer pools and thread stacks grow.
    parser.add_argument("--warm-epochs", type=positive, default=10, help="epochs before them")
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=OUTPUTS, help="types of the images")


def run(arguments: argparse.Namespace) -> Record:
    """Run the epochs for each kind of file and each output type."""
    photos = find_photos(arguments.data, arguments.work)
    cores = len(os.sched_getaffinity(0))
    rows = []
    for stored in (FILES["jpeg"], FILES["raw"]):
        path, _ = stored_file(stored, photos, arguments, None)
        contenders = tuple(Contender(f"ffcv_gpu {output}", "own_worker.py", {"output": output})
                           for output in arguments.outputs)  # fmt: skip
        request = {"path": str(path), "batch_size": 32, "workers": cores, "side": 224}
        rows += run_case(
            Case(stored.name, cores, contenders), METRICS, arguments.turns,
            turn=lambda worker, _: epochs(worker, arguments.epochs),
            prepare=lambda worker, c, r=request: warmed(worker, r | dict(c.settings), arguments.warm_epochs),
        )  # fmt: skip
    settings = {
        "samples": arguments.samples,
        "epochs": arguments.epochs,
        "warm_epochs": arguments.warm_epochs,
        "batch_size": 32,
    }
    return Record("memory", settings | {"photos": photos.facts()}, METRICS, rows)


def warmed(worker: Worker, request: Answer, count: int) -> Answer:
    """Make the loader and run the warm-up epochs."""
    worker.ask("open_loader", **request)
    for _ in range(count):
        worker.ask("epoch")
    return {}


def epochs(worker: Worker, count: int) -> Answer:
    """Run `count` epochs and read the resident memory after each."""
    resident = []
    for _ in range(count):
        worker.ask("epoch")
        resident.append(worker.ask("memory")["rss"])
    return {
        "resident_bytes": resident,
        "slope_bytes": slope(resident),
        "first_bytes": resident[0],
        "last_bytes": resident[-1],
        "peak_bytes": max(resident),
    }


def slope(values: Sequence[float]) -> float:
    """Return the bytes per epoch, by least squares; 0 for a single epoch."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(np.arange(len(values)), np.asarray(values, float), 1)[0])


BENCH = Bench("memory", "resident memory over 50 epochs of a small file", add_options, run, rounds=1)

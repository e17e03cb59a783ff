"""``host``: what the CPU does for a GPU, measured without one.

The Loader runs as on a GPU, up to the calls of CUDA and nvJPEG. Behind these is a stand-in that decodes and
copies nothing (`workers/still_gpu.py`). Its engines take a given time per image: none, which shows how many
images/s the cores can feed; or that of a real GPU's, waiting, or spinning as nvJPEG does. What CUDA and
nvJPEG themselves take of the CPU, apart from that, is not included.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.bench_loader import FILES
from benchmarks.compare import Case, run_case
from benchmarks.harness import Answer, Contender, Worker
from benchmarks.options import Bench, cores_option, positive
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record
from benchmarks.stored import stored_file

__all__ = ["BENCH"]

METRICS = [
    Metric("images/s", "", "images", over="seconds"),
    Metric("of the engines' rate", "%", "engine_seconds_needed", over="seconds", scale=100),
    Metric("CPU per image", "us", "cpu_seconds", over="images", scale=1e6),
    Metric("of it spinning", "us", "spun_seconds", over="images", scale=1e6),
]
#: microseconds per image of an H200's seven engines, bare nvJPEG calls: 21,944 images/s (t2_loader)
ENGINE_US = 45.6


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    parser.add_argument("--samples", type=positive, default=600, help="samples in the file")
    parser.add_argument("--batch-size", type=positive, default=256, help="images per batch")
    parser.add_argument("--side", type=positive, default=224, help="side of the output, in pixels")
    parser.add_argument("--images", type=positive, default=60_000, help="in an epoch, which is a turn")
    words = "time that the stand-in's engines take per image; the default is an H200's"
    parser.add_argument("--engine-us", type=microseconds, default=ENGINE_US, help=words)
    cores_option(parser)


def microseconds(text: str) -> float:
    """Parse a duration of up to a second, for argparse."""
    value = float(text)
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1,000,000")
    return value


def run(arguments: argparse.Namespace) -> Record:
    """Load each kind of file with each stand-in, on each number of cores."""
    photos = find_photos(arguments.data, arguments.work)
    request = {"batch_size": arguments.batch_size, "side": arguments.side, "images": arguments.images}
    rows = []
    for stored in (FILES["jpeg"], FILES["raw"]):
        path, _ = stored_file(stored, photos, arguments, None)
        for cores in arguments.cores:
            case = Case(
                f"{stored.name}, {cores} core{'s' * (cores > 1)}", cores, contenders(arguments, stored)
            )
            opened = request | {"path": str(path), "workers": cores}
            rows += run_case(
                case, METRICS, arguments.turns, turn=lambda worker, _: worker.ask("epoch"),
                prepare=lambda worker, c, r=opened: prepared(worker, c, r),
            )  # fmt: skip
    settings = request | {"samples": arguments.samples, "output": "float16, normalised", "order": "RANDOM"}
    notes = ["no GPU: a stand-in that decodes and copies nothing"]
    return Record("host", settings | {"photos": photos.facts()}, METRICS, rows, notes)


def contenders(arguments: argparse.Namespace, stored: Any) -> tuple[Contender, ...]:
    """Return the stand-ins: only the one without engines for files without JPEGs."""
    words, script = f"engines of {arguments.engine_us:g} us per image", "host_worker.py"
    found = [Contender("a GPU that takes no time", script, {"engine_us": 0.0, "spins": False})]
    if stored.has_jpegs:
        for how, spins in (("waiting", False), ("spinning", True)):
            settings = {"engine_us": arguments.engine_us, "spins": spins}
            found.append(Contender(f"{words}, {how}", script, settings))
    return tuple(found)


def prepared(worker: Worker, contender: Contender, request: dict[str, Any]) -> Answer:
    """Make the loader, and run an epoch so that slots and pools have their size."""
    return worker.ask("open_loader", **contender.settings, **request)


BENCH = Bench("host", "what the CPU does for a GPU: the Loader with a stand-in", add_options, run, rounds=5)

"""``threads``: what the Loader's threads lose to each other, on more threads than this machine has cores.

Python runs in one thread at a time. The Loader runs as it is, but decoding an image and resampling it are
sleeps, which need no core and no lock, as both would on a core of their own. How much faster the sleeps
alone are in as many threads is what the Loader's own Python, and waiting for it, cost. The cores of this
machine do the rest: reading, checking, planning. A machine that has the cores wakes its threads faster.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.bench_loader import FILES
from benchmarks.compare import Case, run_case
from benchmarks.harness import Answer, Contender, Worker
from benchmarks.options import Bench, positive
from benchmarks.peers.libturbojpeg import LIBTURBOJPEG
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record
from benchmarks.stored import stored_file

__all__ = ["BENCH"]

METRICS = [
    Metric("images/s", "", "images", over="seconds", ratio=True),
    Metric("CPU per image", "us", "cpu_seconds", over="images", scale=1e6),
]
ALONE, SCRIPT = "the sleeps alone", "threads_worker.py"
#: simplejpeg is called for each image; libturbojpeg by compiled code for all images of a lane
OWN_ROWS = {
    "ffcv_gpu": {"jpeg_backend": "turbo"},
    "ffcv_gpu, libturbojpeg": {"jpeg_backend": "turbo2"},
}
#: microseconds for a photograph of 500 x 375 on a core of the machine of peers.json
SLEEPS = {"decode_us": 550.0, "compose_us": 170.0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    words = "numbers of worker threads, one case each"
    parser.add_argument("--threads", nargs="+", type=positive, default=[2, 4, 8, 16, 32], help=words)
    parser.add_argument("--samples", type=positive, default=600, help="samples in the file")
    parser.add_argument("--batch-size", type=positive, default=256, help="images per batch")
    parser.add_argument("--images", type=positive, default=8192, help="in an epoch, which is a turn")


def run(arguments: argparse.Namespace) -> Record:
    """Load photographs with each number of threads."""
    photos = find_photos(arguments.data, arguments.work)
    path, _ = stored_file(FILES["jpeg"], photos, arguments, None)
    images, cores = {"images": arguments.images}, len(os.sched_getaffinity(0))
    without = LIBTURBOJPEG.find()
    contenders = [Contender(ALONE, SCRIPT)]
    for name, its in OWN_ROWS.items():
        missing = without if its["jpeg_backend"] == "turbo2" else None
        contenders.append(Contender(name, SCRIPT, its, missing=missing))
    rows = []
    for workers in arguments.threads:
        case = Case(f"{workers} thread{'s' * (workers > 1)}", cores, contenders, ALONE)
        asked = images | SLEEPS | {"workers": workers}
        opened = asked | {"path": str(path), "batch_size": arguments.batch_size}

        def prepare(worker: Worker, contender: Contender, opened: Answer = opened) -> Answer:
            return worker.ask("open_loader", **opened, **contender.settings) if contender.settings else {}

        def turn(worker: Worker, contender: Contender, asked: Answer = asked) -> Answer:
            return worker.ask("epoch") if contender.settings else worker.ask("sleep", **asked)

        rows += run_case(case, METRICS, arguments.turns, turn, prepare)
    settings = images | SLEEPS | {"batch_size": arguments.batch_size, "cores": cores}
    notes = ["decoding and resampling are sleeps: speeds say nothing, ratios do"]
    return Record("threads", settings | {"photos": photos.facts()}, METRICS, rows, notes)


BENCH = Bench("threads", "what many threads lose to Python's lock, on sleeps", add_options, run, rounds=5)

"""``peers``: source bytes to augmented batches, ffcv_gpu against every other library that is installed.

The same stored JPEGs for all, each library with the container that it reads: a .beton file, a folder of
files, tar shards. Random-resized-crop to 224, random flip, random order, uint8 batches in each library's own
layout. The last rows are the limit: bare decoders, which crop nothing.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.compare import Case, run_case
from benchmarks.containers import folder_of, shards_of
from benchmarks.contenders import contenders_of, notes_of, peers_options
from benchmarks.harness import Answer, Contender, Worker
from benchmarks.options import Bench, cores_option, positive
from benchmarks.peers import FFCV
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record
from benchmarks.stored import Stored, stored_file
from benchmarks.watch import Peak, once_bytes

__all__ = ["BENCH"]

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("images/s per core used", "", "images", "cpu_seconds"),
    Metric("CPU seconds", "per 1,000 images", "cpu_seconds", "images", scale=1000),
    Metric("peak memory", "MB", "peak_bytes", scale=1e-6),
]
STORED = Stored("JPEG 500 px q90", {"write_mode": "jpg", "max_resolution": 500, "jpeg_quality": 90})
OWN = {
    "ffcv_gpu": {"output": "uint8", "dct": "accurate", "jpeg_backend": "turbo"},
    "ffcv_gpu, fast DCT": {"output": "uint8", "dct": "fast", "jpeg_backend": "turbo"},
    "ffcv_gpu, libturbojpeg 3": {"output": "uint8", "dct": "accurate", "jpeg_backend": "turbo3"},
}
REFERENCE = "FFCV"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    cores_option(parser)
    peers_options(parser)
    # With 1,536 samples, starting an epoch took a sixth of FFCV's time.
    parser.add_argument("--samples", type=positive, default=6144, help="samples, photos repeated as needed")
    parser.add_argument("--batch-size", type=positive, default=256, help="images per batch")
    parser.add_argument("--side", type=positive, default=224, help="side of the output, in pixels")


def run(arguments: argparse.Namespace) -> Record:
    """Write the files if needed, then run all contenders on each number of cores."""
    photos = find_photos(arguments.data, arguments.work)
    beton, writer = stored_file(STORED, photos, arguments, FFCV.find(arguments.ffcv_python)[0])
    request = {"path": str(beton.resolve()), "folder": str(folder_of(beton).resolve()),
               "batch_size": arguments.batch_size, "side": arguments.side}  # fmt: skip
    contenders = tuple(contenders_of(arguments, OWN, lambda peer: peer.loader))
    rows = []
    for cores in arguments.cores:
        case = Case(f"{STORED.name}, {cores} cores", cores, contenders, REFERENCE)
        shards = [str(path.resolve()) for path in shards_of(beton, cores)]
        watched = Watched(request | {"workers": cores, "shards": shards})
        rows += run_case(case, METRICS, arguments.turns, turn=watched.epoch, prepare=watched.open)
    settings = {"batch_size": arguments.batch_size, "side": arguments.side, "order": "random",
                "cache": "warm", "augmentation": "RandomResizedCrop, RandomHorizontalFlip"}  # fmt: skip
    megabytes = beton.stat().st_size / 1e6
    notes = [f"{STORED.name}: {arguments.samples} samples, {megabytes:.0f} MB, by {writer}", *notes_of(rows)]
    return Record("peers", settings | {"photos": photos.facts()}, METRICS, rows, notes)


class Watched:
    """Samples memory throughout the first epoch, and once after each later epoch."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._peaks: dict[str, Peak] = {}

    def open(self, worker: Worker, contender: Contender) -> Answer:
        """Make the loader and run an epoch, during which compilers run and the cache fills."""
        peak = self._peaks[contender.name] = Peak(once_bytes)
        return worker.ask("open_loader", peak=peak, **self._request, **contender.settings)

    def epoch(self, worker: Worker, contender: Contender) -> Answer:
        """Run an epoch; its memory is sampled while the worker is idle again."""
        answer, peak = worker.ask("epoch"), self._peaks[contender.name]
        peak.look(worker.process)
        return answer | {"peak_bytes": peak.bytes}


BENCH = Bench(
    "peers", "source bytes to augmented batches, against every other library", add_options, run, rounds=3
)

"""``write``: photographs on disk to a ``.beton`` file, beside FFCV's writer.

FFCV takes Pillow images from an indexed dataset, as ImageFolder gives them: its natural way. ffcv_gpu takes
the paths, and once the same Pillow images. A JPEG that needs no resize is stored by ffcv_gpu as it is; where
both re-encode every photo the case says so.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from benchmarks.compare import Case, run_case
from benchmarks.harness import Answer, Contender, Worker
from benchmarks.options import Bench, cores_option, positive
from benchmarks.peers import FFCV
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record

__all__ = ["BENCH"]

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("CPU seconds", "per 1,000 images", "cpu_seconds", "images", scale=1000),
    Metric("file", "MB", "file_bytes", scale=1e-6),
]


@dataclass(frozen=True)
class Kind:
    """One case: FFCV's settings, and those of our rows by name."""

    name: str
    ffcv: dict[str, Any]
    own: dict[str, dict[str, Any]]


def jpg(resolution: int | None) -> dict[str, Any]:
    """FFCV's arguments for JPEG of quality 90."""
    return {"write_mode": "jpg", "max_resolution": resolution, "jpeg_quality": 90}


RAW = {"write_mode": "raw", "max_resolution": 256}
KINDS = [
    Kind(
        "JPEG 500 px q90",
        jpg(500),
        {
            "ffcv_gpu, all re-encoded from Pillow images": {"source": "pillow"} | jpg(500),
            "ffcv_gpu from paths (what fits passes through)": jpg(500),
        },
    ),
    Kind(
        "JPEG 320 px q90",  # which hardly a photo fits: both re-encode
        jpg(320),
        {
            "ffcv_gpu from paths": jpg(320),
            # what FFCV stores of every photo; else each keeps its own chroma, which is often all of it
            "ffcv_gpu from paths, 4:2:0 as FFCV": jpg(320) | {"subsampling": "4:2:0"},
            "ffcv_gpu from paths, dct_scaling": jpg(320) | {"dct_scaling": True},
        },
    ),
    Kind(
        "JPEG, sizes as they are",
        jpg(None),
        {
            "ffcv_gpu, pass-through checked": {"check": "decode"},
            "ffcv_gpu, pass-through, header only": {"check": "header"},
        },
    ),
    Kind(
        "raw 256 px",
        RAW,
        {
            "ffcv_gpu from paths": RAW,
            "ffcv_gpu from paths, dct_scaling": RAW | {"dct_scaling": True},
            "ffcv_gpu from Pillow images": {"source": "pillow"} | RAW,
        },
    ),
]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark takes."""
    cores_option(parser)
    parser.add_argument(
        "--samples", type=positive, default=2400, help="samples to write: photos over and over"
    )


def run(arguments: argparse.Namespace) -> Record:
    """Run every case on every number of cores."""
    python, missing = FFCV.find(arguments.ffcv_python)
    photos = find_photos(arguments.data, arguments.work)
    listing, target = photos.listing(arguments.work), arguments.work / "written.beton"
    for path in photos.paths[: arguments.samples]:
        path.read_bytes()  # into the page cache: the first turn is no colder than the others

    def write(worker: Worker, contender: Contender, cores: int, count: int) -> Answer:
        request = {"listing": str(listing), "target": str(target), "workers": cores, "count": count}
        try:
            return worker.ask("write", **request, **contender.settings)
        finally:
            target.unlink(missing_ok=True)

    rows = []
    for kind in KINDS:
        own = [Contender(name, "own_worker.py", settings) for name, settings in kind.own.items()]
        contenders = (Contender("FFCV", FFCV.script, kind.ffcv, python, missing), *own)
        for cores in arguments.cores:
            rows += run_case(
                Case(f"{kind.name}, {cores} cores", cores, contenders, "FFCV"), METRICS, arguments.turns,
                turn=lambda worker, c, n=cores: write(worker, c, n, arguments.samples),
                prepare=lambda worker, c, n=cores: warm(write(worker, c, n, 2 * n)),
            )  # fmt: skip
    settings = {"samples": arguments.samples, "photos": photos.facts(), "cache": "warm"}
    return Record("write", settings, METRICS, rows)


def warm(_: Answer) -> Answer:
    """Forget what a few samples took: they only load libraries."""
    return {}


BENCH = Bench("write", "photographs to a .beton file, beside FFCV", add_options, run)

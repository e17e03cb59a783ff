"""``write``: photographs on disk to a ``.beton`` file, against FFCV's writer.

FFCV gets Pillow images from an indexed dataset, as ImageFolder returns them: its usual source. ffcv_gpu gets
paths, in some rows the same Pillow images. It stores a JPEG that needs no resize unchanged, unless the row
says that all are re-encoded.
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
    """One case: FFCV's settings, and those of ffcv_gpu's rows by name."""

    name: str
    ffcv: dict[str, Any]
    own: dict[str, dict[str, Any]]


def jpg(resolution: int | None) -> dict[str, Any]:
    """Return FFCV's arguments for JPEGs of quality 90."""
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
        "JPEG 320 px q90",  # hardly a photo is that small: both re-encode
        jpg(320),
        {
            "ffcv_gpu from paths": jpg(320),
            # as FFCV stores every photo; otherwise each keeps its own subsampling, often 4:4:4
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
    """Declare this benchmark's options."""
    cores_option(parser)
    parser.add_argument(
        "--samples", type=positive, default=2400, help="samples to write, photos repeated as needed"
    )


def run(arguments: argparse.Namespace) -> Record:
    """Run every case on every number of cores."""
    python, missing = FFCV.find(arguments.ffcv_python)
    photos = find_photos(arguments.data, arguments.work)
    listing, target = photos.listing(arguments.work), arguments.work / "written.beton"
    for path in photos.paths[: arguments.samples]:
        path.read_bytes()  # into the page cache, so that the first turn is not colder than the others

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
    """Discard the answer for a few samples: they only load libraries."""
    return {}


BENCH = Bench("write", "photographs to a .beton file, against FFCV", add_options, run)

"""``loader``: bytes in a file to augmented batches, ffcv_gpu beside FFCV, on the same stored bytes.

Files are written by FFCV in its own environment (by ffcv_gpu where FFCV is missing) from real photographs
and read by both from the page cache: random-resized-crop to 224, random flip, random order. Each contender
has a process of its own; its first epoch, in which FFCV compiles and the cache fills, is a line of its own.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare import Case, run_case
from benchmarks.harness import Contender, started
from benchmarks.options import Bench, cores_option, positive
from benchmarks.peers import FFCV, LIBTURBOJPEG
from benchmarks.photos import Photos, find_photos
from benchmarks.record import Metric, Record

__all__ = ["BENCH"]

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("CPU seconds", "per 1,000 images", "cpu_seconds", "images", scale=1000),
    Metric("images/s per core used", "", "images", "cpu_seconds", ratio=True),
]


@dataclass(frozen=True)
class Stored:
    """How a file's images are stored: FFCV's RGBImageField arguments."""

    name: str
    field: dict[str, Any]


FILES = {
    "jpeg": Stored("JPEG 500 px q90", {"write_mode": "jpg", "max_resolution": 500, "jpeg_quality": 90}),
    "raw": Stored("raw 256 px", {"write_mode": "raw", "max_resolution": 256}),
}

#: by kind of file: what each row asks of its worker. FFCV decodes with the fast DCT, and cannot otherwise.
FFCV_ROWS = {"FFCV uint8": {"output": "uint8"}, "FFCV float16": {"output": "float16"}}
OWN_ROWS = {
    "jpeg": {
        "ffcv_gpu uint8": {"output": "uint8", "dct": "accurate", "jpeg_backend": "turbo"},
        "ffcv_gpu uint8, fast DCT": {"output": "uint8", "dct": "fast", "jpeg_backend": "turbo"},
        "ffcv_gpu float16": {"output": "float16", "dct": "accurate", "jpeg_backend": "turbo"},
    },
    "raw": {"ffcv_gpu uint8": {"output": "uint8"}, "ffcv_gpu float16": {"output": "float16"}},
}
#: those that need libturbojpeg 3; the last is its bare whole-image decode, all cores, nothing else done
TURBO3_ROWS = {
    "ffcv_gpu uint8, libturbojpeg 3": {"output": "uint8", "dct": "accurate", "jpeg_backend": "turbo3"},
    "ffcv_gpu uint8, fast DCT, libturbojpeg 3": {"output": "uint8", "dct": "fast", "jpeg_backend": "turbo3"},
    "libturbojpeg 3 alone, whole images": {"output": "none", "dct": "accurate"},
    "libturbojpeg 3 alone, whole images, fast DCT": {"output": "none", "dct": "fast"},
}
REFERENCE = "FFCV uint8"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark takes."""
    cores_option(parser)
    parser.add_argument(
        "--files", nargs="+", choices=FILES, default=list(FILES), help="kinds of stored images"
    )
    parser.add_argument(
        "--samples", type=positive, default=3072, help="samples in the file: photos over and over"
    )
    parser.add_argument("--batch-size", type=positive, default=256)
    parser.add_argument("--side", type=positive, default=224, help="output pixels")


def run(arguments: argparse.Namespace) -> Record:
    """Write the files if need be, then run every case."""
    python, missing = FFCV.find(arguments.ffcv_python)
    photos = find_photos(arguments.data, arguments.work)
    rows, notes = [], []
    for kind in arguments.files:
        path, writer = stored_file(FILES[kind], photos, arguments, python)
        megabytes = path.stat().st_size / 1e6
        notes.append(f"{FILES[kind].name}: {arguments.samples} samples, {megabytes:.0f} MB, by {writer}")
        for cores in arguments.cores:
            contenders = tuple(contenders_of(kind, python, missing))
            case = Case(f"{FILES[kind].name}, {cores} cores", cores, contenders, REFERENCE)
            request = {
                "path": str(path),
                "batch_size": arguments.batch_size,
                "workers": cores,
                "side": arguments.side,
            }
            rows += run_case(
                case, METRICS, arguments.turns,
                turn=lambda worker, _: worker.ask("epoch"),
                prepare=lambda worker, c, r=request: worker.ask("open_loader", **r, **c.settings),
            )  # fmt: skip
    settings = {"batch_size": arguments.batch_size, "side": arguments.side,
                "order": "RANDOM", "batches_ahead": 3, "cache": "warm",
                "augmentation": "RandomResizedCrop, RandomHorizontalFlip"}  # fmt: skip
    return Record("loader", settings | {"photos": photos.facts()}, METRICS, rows, notes)


def contenders_of(kind: str, python: str | None, missing: str | None) -> Iterator[Contender]:
    """Yield the rows of one kind of file."""
    for name, settings in FFCV_ROWS.items():
        yield Contender(name, FFCV.script, settings, python, missing)
    for name, settings in OWN_ROWS[kind].items():
        yield Contender(name, "own_worker.py", settings)
    if kind == "jpeg":
        without = LIBTURBOJPEG.find()
        for name, settings in TURBO3_ROWS.items():
            yield Contender(name, "own_worker.py", settings, missing=without)


def stored_file(
    stored: Stored, photos: Photos, arguments: argparse.Namespace, python: str | None
) -> tuple[Path, str]:
    """Return a file of these photos stored so, written unless it is there, and who wrote it."""
    writer = f"FFCV {FFCV.version}" if python else "ffcv_gpu"
    script = FFCV.script if python else "own_worker.py"
    words = "-".join(str(value) for value in stored.field.values())
    target = arguments.work / f"{writer.replace(' ', '-')}-{words}-{arguments.samples}-{photos.digest}.beton"
    if not target.exists():
        cores = len(os.sched_getaffinity(0))
        part = target.with_suffix(".part")
        request = {
            "listing": str(photos.listing(arguments.work)),
            "count": arguments.samples,
            "workers": cores,
        }
        source = {} if python else {"source": "pillow"}
        with started(Contender(writer, script, python=python), cores) as (worker, _):
            worker.ask("write", target=str(part), **request, **source, **stored.field)
        part.replace(target)
    return target, writer


BENCH = Bench("loader", "bytes in a file to augmented batches, beside FFCV", add_options, run, rounds=7)

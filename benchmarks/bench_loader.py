"""``loader``: bytes in a file to augmented batches, ffcv_gpu and FFCV on the same stored bytes.

FFCV in its own environment (ffcv_gpu if FFCV is missing) writes the files from real photographs, and both
read them: random-resized-crop to 224, random flip, random order. ``grids/loader.toml`` defines the files,
numbers of cores, and warm or cold page caches. Each contender has a separate process; its first epoch, during
which FFCV compiles and the cache fills, is reported separately.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import grids
from benchmarks.cache import resident_share
from benchmarks.compare import Case, run_case
from benchmarks.containers import folder_of
from benchmarks.epochs import for_seconds, from_cold
from benchmarks.forecast import Forecast
from benchmarks.harness import Answer, Contender, Worker
from benchmarks.options import Bench, cores_option, positive
from benchmarks.peers import FFCV, LIBTURBOJPEG, TURBOJPEG
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record, Row
from benchmarks.stored import Stored, indexed_file, stored_facts, stored_file

__all__ = ["BENCH"]

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("CPU seconds", "per 1,000 images", "cpu_seconds", "images", scale=1000),
    Metric("images/s per core used", "", "images", "cpu_seconds", ratio=True),
    Metric("source megapixels/s", "", "source_pixels", "seconds", scale=1e-6),
    Metric("compressed MB/s", "", "jpeg_bytes", "seconds", scale=1e-6),
    Metric("peak memory", "MB", "peak_bytes", scale=1e-6),
]


@dataclass(frozen=True)
class Block:
    """Cases of the grid with the same settings; see grids/loader.toml."""

    name: str
    grids: list[str]
    files: list[str]
    cores: str
    cache: list[str]
    rows: list[str]
    samples: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Cell:
    """One case of the grid."""

    block: Block
    file: str
    cores: int
    cache: str

    @property
    def name(self) -> str:
        """Name in the table."""
        cores = f"{self.cores} core{'s' * (self.cores > 1)}"
        return f"{FILES[self.file].name}, {cores}" + (", cold" if self.cache == "cold" else "")


GRID = grids.read("loader")
FILES = {key: Stored(**stored) for key, stored in GRID["files"].items()}
BLOCKS = [Block(name, **block) for name, block in GRID["blocks"].items()]

#: settings of each row, ours by kind of file. FFCV always decodes with the fast DCT.
FFCV_ROWS = {"FFCV uint8": {"output": "uint8"}, "FFCV float16": {"output": "float16"}}
OWN_ROWS = {
    "jpeg": {
        "ffcv_gpu uint8": {"output": "uint8", "dct": "accurate", "jpeg_backend": "turbo"},
        "ffcv_gpu uint8, fast DCT": {"output": "uint8", "dct": "fast", "jpeg_backend": "turbo"},
        "ffcv_gpu float16": {"output": "float16", "dct": "accurate", "jpeg_backend": "turbo"},
    },
    "raw": {"ffcv_gpu uint8": {"output": "uint8"}, "ffcv_gpu float16": {"output": "float16"}},
}
#: rows that need libturbojpeg 3; and rows that only decode whole images with it, on all cores
TURBO3_ROWS = {
    "ffcv_gpu uint8, libturbojpeg 3": {"output": "uint8", "dct": "accurate", "jpeg_backend": "turbo3"},
    "ffcv_gpu uint8, fast DCT, libturbojpeg 3": {"output": "uint8", "dct": "fast", "jpeg_backend": "turbo3"},
}
#: rows that read the same images with an index for crops
INDEXED_ROWS = {
    "ffcv_gpu uint8, crop index": {"output": "uint8", "dct": "accurate", "jpeg_backend": "turbo"},
    "ffcv_gpu uint8, crop index, libturbojpeg 3": {
        "output": "uint8", "dct": "accurate", "jpeg_backend": "turbo3"
    },
}  # fmt: skip
BARE_ROWS = {
    "libturbojpeg 3 alone, whole images": {"dct": "accurate"},
    "libturbojpeg 3 alone, whole images, fast DCT": {"dct": "fast"},
}
REFERENCE = "FFCV uint8"

#: minimal seconds of a turn with a warm cache, in whole epochs
LEAST = 0.4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    grids.grid_options(parser)
    cores_option(parser)
    parser.set_defaults(cores=None)
    parser.add_argument("--files", nargs="+", choices=FILES, default=list(FILES), help="only these files")
    parser.add_argument(
        "--samples", type=positive, help="samples per file, photos repeated (default: from the grid)"
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="images per batch")
    parser.add_argument("--side", type=positive, default=224, help="side of the output, in pixels")


def run(arguments: argparse.Namespace) -> Record:
    """Write the files if needed, then run every case."""
    chosen = cells(arguments)
    python, missing = FFCV.find(arguments.ffcv_python)
    photos = find_photos(arguments.data, arguments.work)
    forecast = Forecast([share(cell, arguments) * cell.block.seconds for cell in chosen])
    rows, notes = [], []
    for cell in chosen:
        forecast.step(cell.name)
        samples = arguments.samples or cell.block.samples
        path, writer = stored_file(FILES[cell.file], photos, arguments, python, samples)
        facts = stored_facts(path)
        note = f"{FILES[cell.file].name}: {samples} samples, {facts.pop('words')}, by {writer}"
        notes += [note] if note not in notes else []
        rows += measured(cell, path, facts, arguments, list(contenders_of(cell, python, missing)))
    settings = {"batch_size": arguments.batch_size, "side": arguments.side, "grid": arguments.grid,
                "order": "RANDOM", "batches_ahead": 3,
                "augmentation": "RandomResizedCrop, RandomHorizontalFlip"}  # fmt: skip
    return Record("loader", settings | {"photos": photos.facts()}, METRICS, rows, notes + cache_notes(rows))


def cells(arguments: argparse.Namespace) -> list[Cell]:
    """Return the chosen cases, in the order of the grid."""
    every = grids.cores_up_to()
    found = [
        Cell(block, file, cores, cache)
        for block in BLOCKS
        for file in block.files
        for cores in arguments.cores or (every if block.cores == "all" else every[-1:])
        for cache in block.cache
        if file in arguments.files and (arguments.case or arguments.grid in block.grids)
    ]
    names = grids.picked([(cell.block.name, cell.name) for cell in found], arguments.case)
    if not names:
        raise ValueError(f"--grid {arguments.grid} has no case with these --files; --grid full has more")
    return [cell for cell in found if cell.name in names]


def share(cell: Cell, arguments: argparse.Namespace) -> float:
    """Estimate the share of a case's work that these arguments leave."""
    samples = (arguments.samples or cell.block.samples) / cell.block.samples
    return samples * min(arguments.rounds, cell.block.rounds) / cell.block.rounds


def contenders_of(cell: Cell, python: str | None, missing: str | None) -> Iterator[Contender]:
    """Yield the contenders of one case."""
    own = OWN_ROWS["jpeg" if FILES[cell.file].has_jpegs else "raw"]
    rows = [Contender(name, FFCV.script, settings, python, missing) for name, settings in FFCV_ROWS.items()]
    rows += [Contender(name, "own_worker.py", settings) for name, settings in own.items()]
    if FILES[cell.file].has_jpegs:
        without = LIBTURBOJPEG.find()
        for script, found in (("own_worker.py", TURBO3_ROWS), (TURBOJPEG.script, BARE_ROWS)):
            rows += [Contender(name, script, its, missing=without) for name, its in found.items()]
        for name, its in INDEXED_ROWS.items() if cell.block.rows else ():
            missing = without if its["jpeg_backend"] == "turbo3" else None
            rows.append(Contender(name, "own_worker.py", its, missing=missing))
    yield from (row for row in rows if not cell.block.rows or row.name in cell.block.rows)


def measured(
    cell: Cell, path: Path, facts: Answer, arguments: argparse.Namespace, contenders: Sequence[Contender]
) -> list[Row]:
    """Run one case; the rows' settings are what tables and plots select by."""
    cold = cell.cache == "cold"
    # A mapped file cannot be dropped from the page cache: for a cold cache it is read, not mapped.
    request = {"path": str(path), "batch_size": arguments.batch_size, "workers": cell.cores,
               "side": arguments.side, "os_cache": not cold}  # fmt: skip
    if any(contender.script == TURBOJPEG.script and not contender.missing for contender in contenders):
        request["folder"] = str(folder_of(path))

    def turn(worker: Worker, _: Contender) -> Answer:
        if cold:
            answer = from_cold(worker, path)
        else:
            answer = {"resident_before": resident_share(path)} | for_seconds(worker, LEAST)
        return answer | {key: facts[key] * answer["epochs"] for key in ("source_pixels", "jpeg_bytes")}

    turns = replace(arguments.turns, rounds=min(arguments.rounds, cell.block.rounds))

    def prepare(worker: Worker, contender: Contender) -> Answer:
        read = indexed_file(path) if contender.name in INDEXED_ROWS else path
        return worker.ask("open_loader", **request | {"path": str(read)}, **contender.settings)

    rows = run_case(
        Case(cell.name, cell.cores, tuple(contenders), REFERENCE), METRICS, turns, turn=turn, prepare=prepare
    )
    for row in rows:
        row.settings |= {"block": cell.block.name, "file": cell.file, "cores": cell.cores,
                         "jpeg_percent": facts["jpeg_percent"], "cache": cell.cache}  # fmt: skip
    return rows


def cache_notes(rows: Sequence[Row]) -> list[str]:
    """Say how cold and how warm the page cache was: the shares of the file in memory, by mincore."""
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    for row in rows:
        found[row.settings["cache"]] += [turn["resident_before"] for turn in row.repeats]
    notes = []
    if found["warm"]:
        notes += [f"warm: at least {min(found['warm']):.1%} of the file was in memory before a turn"]
    if found["cold"]:
        notes += [
            f"cold: at most {max(found['cold']):.1%} of the file was in memory before a turn; caches of the "
            "disk or of a virtual machine's host cannot be observed"
        ]
    return notes


BENCH = Bench("loader", "bytes in a file to augmented batches, against FFCV", add_options, run)

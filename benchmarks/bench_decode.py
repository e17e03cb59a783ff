"""``decode``: JPEG bytes in memory to RGB pixels and nothing else, by size, quality and subsampling.

Photographs are cropped, resized and encoded once by libjpeg-turbo; larger pictures are mosaics of them,
because enlarged photographs would have too little detail for their size. Each decoder decodes the same files
on the same cores, in threads. The decoders' outputs for one picture are compared before anything is timed.
``grids/decode.toml`` defines the kinds of files and the length of a turn.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks import grids
from benchmarks.compare import Case, Crew, run_case
from benchmarks.contenders import contenders_of, notes_of, peers_options
from benchmarks.epochs import SUMMED
from benchmarks.files import listing, written
from benchmarks.forecast import Forecast
from benchmarks.harness import Answer, Contender, Failed, Worker
from benchmarks.options import Bench, cores_option, positive
from benchmarks.photos import Photos, find_photos, fitted
from benchmarks.record import Metric, Record

__all__ = ["BENCH"]

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("megapixels/s", "", "megapixels", "seconds"),
    Metric("compressed MB/s", "", "megabytes", "seconds"),
    Metric("images/s per core used", "", "images", "cpu_seconds"),
]

OWN = {"ffcv_gpu decode_jpegs": {"dct": "accurate", "batch_size": 32}}
REFERENCE = "bare simplejpeg"
#: size of a photograph in a mosaic, in pixels
TILE = (480, 360)
#: tolerated difference of the mean grey level: rounding, and FFmpeg's own colour conversion
TOLERANCE = 1.5


@dataclass(frozen=True)
class Size:
    """Pictures of one size, and their number per pass; see grids/decode.toml."""

    width: int
    height: int
    images: int
    distinct: int


@dataclass(frozen=True)
class Block:
    """Cases of the grid with the same settings; see grids/decode.toml."""

    name: str
    grids: list[str]
    sizes: list[str]
    qualities: list[int]
    subsamplings: list[str]
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Cell:
    """One kind of JPEG."""

    size: str
    quality: int
    subsampling: str

    @property
    def name(self) -> str:
        return f"{self.size} q{self.quality} {':'.join(self.subsampling)}"

    @property
    def pixels(self) -> int:
        return SIZES[self.size].width * SIZES[self.size].height


GRID = grids.read("decode")
SIZES = {name: Size(**size) for name, size in GRID["sizes"].items()}
BLOCKS = [Block(name, **block) for name, block in GRID["blocks"].items()]


def cells(grid: str, case: Sequence[str] | None = None) -> dict[Cell, Block]:
    """Return the cases of a grid, or those of --case, in the order of the file; each in its first block."""
    found: dict[Cell, Block] = {}
    for block in BLOCKS:
        if case or grid in block.grids:
            for each in itertools.product(block.sizes, block.qualities, block.subsamplings):
                found.setdefault(Cell(*each), block)
    names = grids.picked([(block.name, cell.name) for cell, block in found.items()], case)
    return {cell: block for cell, block in found.items() if cell.name in names}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    grids.grid_options(parser)
    cores_option(parser)
    peers_options(parser)
    parser.add_argument("--images", type=positive, help="images per pass (default: by size, from the grid)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=GRID["turn"]["seconds"],
        help="minimal length of a turn, in whole passes",
    )


def run(arguments: argparse.Namespace) -> Record:
    """Write the sets of files if needed, then run all contenders on each."""
    chosen = cells(arguments.grid, arguments.case)
    photos = find_photos(arguments.data, arguments.work)
    contenders = tuple(contenders_of(arguments, OWN, lambda peer: peer.decoder))
    work = [(cores, cell, block) for cores in arguments.cores for cell, block in chosen.items()]
    forecast = Forecast([share(block, arguments.rounds) * block.seconds for _, _, block in work])
    rows, notes = [], []
    with contextlib.ExitStack() as stack:
        crew = Crew(stack)
        for cores, cell, block in work:
            forecast.step(f"{cell.name}, {cores} cores")
            count = arguments.images or SIZES[cell.size].images
            paths = files_of(cell, photos, arguments.work)
            decoding = Decoding(cell, paths, count, cores, arguments.seconds)
            case = Case(f"{cell.name}, {cores} cores", cores, contenders, REFERENCE)
            turns = replace(arguments.turns, rounds=min(arguments.rounds, block.rounds))
            rows += run_case(case, METRICS, turns, decoding.turn, decoding.open, crew=crew)
            notes += [f"{cell.name}: {decoding.facts()}"] if cores == arguments.cores[0] else []
    settings = {"photos": photos.facts(), "grid": arguments.grid, "turn_seconds": arguments.seconds,
                "tolerance_grey_levels": TOLERANCE}  # fmt: skip
    return Record("decode", settings, METRICS, rows, [*notes, *notes_of(rows)])


def share(block: Block, rounds: int) -> float:
    """Return the share of a case's turns that --rounds leaves."""
    return min(rounds, block.rounds) / block.rounds


class Decoding:
    """A set of files that all contenders decode."""

    def __init__(self, cell: Cell, paths: Sequence[Path], count: int, cores: int, least: float) -> None:
        self._cell, self._count, self._cores, self._least = cell, count, cores, least
        self._listing = listing(paths, paths[0].parent / "listing.json")
        self._bytes = sum(paths[i % len(paths)].stat().st_size for i in range(count))
        self._wanted = expected(paths, count)

    def open(self, worker: Worker, contender: Contender) -> Answer:
        """Let a worker decode all files once; raises `Failed` if its output differs from libjpeg-turbo's."""
        request = {"listing": str(self._listing), "count": self._count, "threads": self._cores}
        found = worker.ask("open_files", **request, **contender.settings)
        same = all(found[key] == self._wanted[key] for key in ("height", "width"))
        if not same or abs(found["mean"] - self._wanted["mean"]) > TOLERANCE:
            raise Failed(f"{contender.name}: decoded {found}, libjpeg-turbo {self._wanted}")
        return {}

    def turn(self, worker: Worker, contender: Contender) -> Answer:
        """Let it decode them again, timed, until the turn is long enough."""
        answers: list[Answer] = []
        while not answers or sum(answer["seconds"] for answer in answers) < self._least:
            answers.append(worker.ask("decode"))
        sums = {key: sum(answer[key] for answer in answers) for key in SUMMED}
        passes = len(answers)
        return sums | {
            "passes": passes,
            "megapixels": passes * self._count * self._cell.pixels / 1e6,
            "megabytes": passes * self._bytes / 1e6,
        }

    def facts(self) -> str:
        """Describe a pass."""
        return f"{self._count} images per pass, {self._bytes / self._count / 1e3:.0f} kB each"


def expected(paths: Sequence[Path], count: int) -> Answer:
    """Describe the last image of a pass, as libjpeg-turbo decodes it."""
    image = simplejpeg.decode_jpeg(paths[(count - 1) % len(paths)].read_bytes(), "RGB")
    return {"height": image.shape[0], "width": image.shape[1], "mean": float(image.mean())}


def files_of(cell: Cell, photos: Photos, work: Path) -> list[Path]:
    """Return JPEGs of this kind made from the photographs, written unless they exist."""
    folder = work / f"decode-{photos.digest}" / cell.name.replace(" ", "-").replace(":", "")
    paths = [folder / f"{number:03}.jpg" for number in range(SIZES[cell.size].distinct)]
    pieces = itertools.cycle(photos.paths)
    for path in paths:
        chosen = [next(pieces) for _ in range(tiles(cell))]
        written(path, lambda part, chosen=chosen: part.write_bytes(encoded(chosen, cell)))
    return paths


def tiles(cell: Cell) -> int:
    """Return the number of photographs in a picture."""
    across, down = mosaic(cell)
    return across * down


def mosaic(cell: Cell) -> tuple[int, int]:
    """Return the numbers of columns and rows of photographs in a picture."""
    size = SIZES[cell.size]
    return max(1, size.width // TILE[0]), max(1, size.height // TILE[1])


def encoded(photos: Sequence[Path], cell: Cell) -> bytes:
    """Encode one photograph, or a mosaic of photographs."""
    size, (across, down) = SIZES[cell.size], mosaic(cell)
    parts = [fitted(path, size.width // across, size.height // down) for path in photos]
    rows = [np.hstack(parts[row * across : (row + 1) * across]) for row in range(down)]
    pixels = np.ascontiguousarray(np.vstack(rows))
    return bytes(simplejpeg.encode_jpeg(pixels, cell.quality, "RGB", cell.subsampling))


BENCH = Bench("decode", "JPEG to pixels alone: sizes, qualities, subsamplings, decoders", add_options, run)

"""``decode``: JPEG bytes in memory to RGB pixels and nothing else, by size, quality and subsampling.

Photographs are cropped, resized and encoded once by libjpeg-turbo; the larger pictures are mosaics of them,
because enlarged ones would have too little detail for their size. Each decoder decodes the same files on the
same cores, in threads. What everybody made of one picture is compared before anything is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from benchmarks.compare import Case, Crew, run_case
from benchmarks.contenders import contenders_of, notes_of, peers_options
from benchmarks.harness import Answer, Contender, Failed, Worker
from benchmarks.options import Bench, cores_option, positive
from benchmarks.photos import Photos, find_photos
from benchmarks.record import Metric, Record

__all__ = ["BENCH", "DEFAULT", "FULL", "Cell"]

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("megapixels/s", "", "megapixels", "seconds"),
    Metric("compressed MB/s", "", "megabytes", "seconds"),
    Metric("images/s per core used", "", "images", "cpu_seconds"),
]

#: longest side -> width and height
SIZES = {"256": (256, 192), "500": (500, 375), "1080p": (1920, 1080), "4K": (3840, 2160)}
QUALITIES = (75, 90, 95)
SUBSAMPLINGS = ("420", "444")
OWN = {"ffcv_gpu decode_jpegs": {"dct": "accurate", "batch_size": 32}}
REFERENCE = "bare simplejpeg"
#: of a mosaic, in pixels
TILE = (480, 360)
#: different images of a set; pixels of a turn, and how few images it may be
DISTINCT, TURN_PIXELS, LEAST = 64, 60e6, 8
#: mean grey levels may differ by as much: rounding, and FFmpeg's own conversion
TOLERANCE = 1.5


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
        width, height = SIZES[self.size]
        return width * height


FULL = [Cell(*each) for each in itertools.product(SIZES, QUALITIES, SUBSAMPLINGS)]
#: a cross through the middle of that: every size, every quality, both subsamplings
DEFAULT = [
    *(Cell(size, 90, "420") for size in SIZES),
    *(Cell("500", quality, "420") for quality in QUALITIES if quality != 90),
    Cell("500", 90, "444"),
    Cell("1080p", 90, "444"),
]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark takes."""
    cores_option(parser)
    peers_options(parser)
    parser.add_argument("--full", action="store_true", help="the whole grid, not a cross through its middle")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--turn-megapixels", type=positive, default=int(TURN_PIXELS / 1e6), help="to decode in one turn"
    )


def run(arguments: argparse.Namespace) -> Record:
    """Write the sets if need be, then run everybody on each."""
    photos = find_photos(arguments.data, arguments.work)
    contenders = tuple(contenders_of(arguments, OWN, lambda peer: peer.decoder))
    grid = [cell for cell in (FULL if arguments.full else DEFAULT) if cell.size in arguments.sizes]
    rows, notes = [], []
    for cores in arguments.cores:
        with contextlib.ExitStack() as stack:
            crew = Crew(stack)
            for cell in grid:
                paths = files_of(cell, photos, arguments.work)
                count = max(LEAST, round(arguments.turn_megapixels * 1e6 / cell.pixels))
                decoding = Decoding(cell, listing(paths), count, cores)
                case = Case(f"{cell.name}, {cores} cores", cores, contenders, REFERENCE)
                rows += run_case(case, METRICS, arguments.turns, decoding.turn, decoding.open, crew=crew)
                notes += [f"{cell.name}: {decoding.facts()}"] if cores == arguments.cores[0] else []
    settings = {"photos": photos.facts(), "turn_megapixels": arguments.turn_megapixels,
                "tolerance_grey_levels": TOLERANCE}  # fmt: skip
    return Record("decode", settings, METRICS, rows, [*notes, *notes_of(rows)])


class Decoding:
    """A set of files decoded by everybody."""

    def __init__(self, cell: Cell, paths: Path, count: int, cores: int) -> None:
        self._cell, self._listing, self._count, self._cores = cell, paths, count, cores
        sizes = [Path(path).stat().st_size for path in json.loads(paths.read_text(encoding="utf-8"))]
        self._bytes = sum(sizes[i % len(sizes)] for i in range(count))
        self._wanted: Answer = expected(json.loads(paths.read_text(encoding="utf-8")), count)

    def open(self, worker: Worker, contender: Contender) -> Answer:
        """Let a worker decode all files once; `Failed` if what it made is not what libjpeg-turbo makes."""
        request = {"listing": str(self._listing), "count": self._count, "threads": self._cores}
        found = worker.ask("open_files", **request, **contender.settings)
        same = all(found[key] == self._wanted[key] for key in ("height", "width"))
        if not same or abs(found["mean"] - self._wanted["mean"]) > TOLERANCE:
            raise Failed(f"{contender.name}: decoded {found}, libjpeg-turbo {self._wanted}")
        return {}

    def turn(self, worker: Worker, contender: Contender) -> Answer:
        """Let it do so again, timed."""
        answer = worker.ask("decode")
        pixels = self._count * self._cell.pixels
        return answer | {"megapixels": pixels / 1e6, "megabytes": self._bytes / 1e6}

    def facts(self) -> str:
        """Say how much a turn is."""
        return f"{self._count} images a turn, {self._bytes / self._count / 1e3:.0f} kB each"


def expected(paths: Sequence[str], count: int) -> Answer:
    """What the last image of a turn is like. One thread or another may decode the last one of all."""
    image = simplejpeg.decode_jpeg(Path(paths[(count - 1) % len(paths)]).read_bytes(), "RGB")
    return {"height": image.shape[0], "width": image.shape[1], "mean": float(image.mean())}


def files_of(cell: Cell, photos: Photos, work: Path) -> list[Path]:
    """Return JPEGs of this kind made from the photographs, written unless they are there."""
    folder = work / f"decode-{photos.digest}" / cell.name.replace(" ", "-").replace(":", "")
    folder.mkdir(parents=True, exist_ok=True)
    distinct = min(DISTINCT, max(LEAST, round(TURN_PIXELS / cell.pixels)))
    paths = [folder / f"{number:03}.jpg" for number in range(distinct)]
    pieces = itertools.cycle(photos.paths)
    for path in paths:
        chosen = [next(pieces) for _ in range(tiles(cell))]
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_bytes(encoded(chosen, cell))
            part.replace(path)
    return paths


def tiles(cell: Cell) -> int:
    """How many photographs make a picture."""
    width, height = SIZES[cell.size]
    return max(1, width // TILE[0]) * max(1, height // TILE[1])


def encoded(photos: Sequence[Path], cell: Cell) -> bytes:
    """Encode a picture made of one photograph, or of rows of them."""
    width, height = SIZES[cell.size]
    across, down = max(1, width // TILE[0]), max(1, height // TILE[1])
    parts = [fitted(path, width // across, height // down) for path in photos]
    rows = [np.hstack(parts[row * across : (row + 1) * across]) for row in range(down)]
    pixels = np.ascontiguousarray(np.vstack(rows))
    return bytes(simplejpeg.encode_jpeg(pixels, cell.quality, "RGB", cell.subsampling))


def fitted(photo: Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Cut the middle of a photograph to a shape, and resize it."""
    image = cv2.imread(str(photo), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"{photo.name} cannot be decoded")
    scale = min(image.shape[1] / width, image.shape[0] / height)
    w, h = int(width * scale), int(height * scale)
    y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(image[y : y + h, x : x + w], (width, height), interpolation=how).astype(np.uint8)


def listing(paths: Sequence[Path]) -> Path:
    """The paths as a JSON file, for workers."""
    target = paths[0].parent / "listing.json"
    target.write_text(json.dumps([str(path.resolve()) for path in paths]), encoding="utf-8")
    return target


BENCH = Bench("decode", "JPEG to pixels alone: sizes, qualities, subsamplings, decoders", add_options, run)

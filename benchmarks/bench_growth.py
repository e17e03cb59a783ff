"""``growth``: throughput and peak memory against cores, batch size, image size and dataset length.

One axis is one case: its points, each an ffcv_gpu loader in a separate process, take turns, and every point
is compared, turn by turn, with a reference point. What should stay constant (images/s per core, for any
number of cores; images/s, for any batch size and length) then has a ratio near 1. ``grids/growth.toml`` has
the points.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import grids
from benchmarks.compare import Case, run_case
from benchmarks.epochs import for_images
from benchmarks.forecast import Forecast
from benchmarks.growth_files import file_of
from benchmarks.harness import Answer, Contender, Worker
from benchmarks.options import Bench, positive
from benchmarks.photos import Photos, find_photos
from benchmarks.record import Metric, Record, Row
from benchmarks.stored import stored_facts

__all__ = ["BENCH"]

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("images/s per core used", "", "images", "cpu_seconds", ratio=True),
    Metric("source megapixels/s", "", "source_pixels", "seconds", scale=1e-6, ratio=True),
    Metric("CPU seconds", "per 1,000 images", "cpu_seconds", "images", scale=1000),
    Metric("peak memory", "MB", "peak_bytes", scale=1e-6, ratio=True),
]


@dataclass(frozen=True)
class Axis:
    """What varies, and the other settings; see grids/growth.toml."""

    name: str
    base: dict[str, Any]
    grids: list[str]
    compared: str
    points: list[int]
    reference: int
    rounds: int
    seconds: float

    def settings(self, point: int, arguments: argparse.Namespace) -> dict[str, Any]:
        """Return the settings of a point's loader and file."""
        wanted = {"images": arguments.images, "samples": arguments.samples}
        given = {key: value for key, value in wanted.items() if value}
        found = self.base | given | {self.name: point}
        return found | {"cores": found["cores"] or grids.cores_up_to()[-1]}


def axes() -> list[Axis]:
    """Read the axes; the points of the cores depend on the machine."""
    grid = grids.read("growth")
    found = []
    for name, axis in grid["axes"].items():
        base = grid["base"] | axis.pop("with", {})
        found.append(Axis(name, base, **axis | {"points": axis["points"] or grids.cores_up_to()}))
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    grids.grid_options(parser)
    parser.set_defaults(grid="full")
    parser.add_argument("--points", nargs="+", type=positive, help="points of the axis that --case names")
    parser.add_argument("--samples", type=positive, help="samples per file (default: from the grid)")
    words = "minimal number of images per turn (default: from the grid)"
    parser.add_argument("--images", type=positive, help=words)


def run(arguments: argparse.Namespace) -> Record:
    """Run the chosen axes."""
    chosen = chosen_axes(arguments)
    photos = find_photos(arguments.data, arguments.work)
    forecast = Forecast([axis.seconds * min(1.0, arguments.rounds / axis.rounds) for axis in chosen])
    rows: list[Row] = []
    for axis in chosen:
        forecast.step(axis.name)
        rows += measured(axis, photos, arguments)
    settings = {
        "grid": arguments.grid, "order": "RANDOM", "output": "uint8", "cache": "warm",
        "augmentation": "RandomResizedCrop, RandomHorizontalFlip", "photos": photos.facts(),
    }  # fmt: skip
    return Record("growth", settings, METRICS, rows, [note_of(axis, arguments) for axis in chosen])


def chosen_axes(arguments: argparse.Namespace) -> list[Axis]:
    """Return the axes of the grid, or of --case; `ValueError` if --points is ambiguous."""
    found = [axis for axis in axes() if arguments.case or arguments.grid in axis.grids]
    names = grids.picked([(axis.name, axis.name) for axis in found], arguments.case)
    found = [axis for axis in found if axis.name in names]
    if not arguments.points:
        return found
    if len(found) != 1:
        raise ValueError("--points belong to one axis: name it with --case")
    (axis,) = found
    if axis.name == "cores" and max(arguments.points) > grids.cores_up_to()[-1]:
        raise ValueError(f"--points: this process may use {grids.cores_up_to()[-1]} cores")
    reference = axis.reference if axis.reference in arguments.points else arguments.points[0]
    return [replace(axis, points=arguments.points, reference=reference)]


def measured(axis: Axis, photos: Photos, arguments: argparse.Namespace) -> list[Row]:
    """Write the files of an axis, then run its points in turns."""
    contenders, paths = zip(*contenders_of(axis, photos, arguments), strict=True)
    names = {contender.settings[axis.name]: contender.name for contender in contenders}
    most = max(contender.settings["cores"] for contender in contenders)
    files = {contender.name: path for contender, path in zip(contenders, paths, strict=True)}
    pixels = {path: mean_pixels(path) for path in paths}

    def prepare(worker: Worker, contender: Contender) -> Answer:
        wanted = contender.settings
        return worker.ask("open_loader", path=str(files[contender.name]), batch_size=wanted["batch_size"],
                          workers=wanted["cores"], side=wanted["side"], output="uint8")  # fmt: skip

    def turn(worker: Worker, contender: Contender) -> Answer:
        answer = for_images(worker, contender.settings["images"])
        return answer | {"source_pixels": round(answer["images"] * pixels[files[contender.name]])}

    case = Case(axis.name, most, contenders, names[axis.reference])
    turns = replace(arguments.turns, rounds=min(arguments.rounds, axis.rounds))
    rows = run_case(case, METRICS, turns, turn, prepare)
    for row in rows:
        row.settings |= {"axis": axis.name, "point": row.settings[axis.name], "compared": axis.compared}
    return rows


def contenders_of(
    axis: Axis, photos: Photos, arguments: argparse.Namespace
) -> Iterator[tuple[Contender, Path]]:
    """Yield every point and its file, written unless it exists."""
    for point in axis.points:
        settings = axis.settings(point, arguments)
        name = f"{axis.name.replace('_', ' ')} {point:,}"
        yield Contender(name, "own_worker.py", settings), file_of(settings, photos, arguments.work)


def mean_pixels(path: Path) -> float:
    """Return the mean number of pixels per image of a file."""
    facts = stored_facts(path)
    return facts["source_pixels"] / facts["samples"]


def note_of(axis: Axis, arguments: argparse.Namespace) -> str:
    """Return what is constant along an axis."""
    fixed = axis.settings(axis.reference, arguments)
    words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fixed.items() if key != axis.name)
    return f"{axis.name}: {words}; compared by {axis.compared}"


BENCH = Bench("growth", "how speed and memory grow", add_options, run)

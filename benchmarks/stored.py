"""The .beton files that benchmarks read, and their contents in numbers."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import written
from benchmarks.forecast import say
from benchmarks.harness import Contender, started
from benchmarks.peers import FFCV, FFCV_VERSION
from benchmarks.photos import Photos
from ffcv_gpu.format import ImageMode, open_beton

__all__ = ["OWN", "Stored", "by_worker", "indexed_file", "stored_facts", "stored_file"]

#: who writes files where FFCV is missing
OWN = Contender("ffcv_gpu", "own_worker.py")


@dataclass(frozen=True)
class Stored:
    """How a file stores its images: the arguments of FFCV's RGBImageField, and the intended % of JPEGs."""

    name: str
    field: dict[str, Any]
    percent: int = 100

    @property
    def has_jpegs(self) -> bool:
        """Whether any image is a JPEG."""
        return self.percent > 0


def stored_facts(path: Path) -> dict[str, Any]:
    """Count what an epoch of a file reads."""
    beton = open_beton(path)
    records, lengths = beton.column("image"), beton.lengths("image")
    jpeg = records["mode"] == ImageMode.JPEG
    pixels = records["width"].astype(np.int64) * records["height"]
    words = f"{path.stat().st_size / 1e6:.0f} MB, {jpeg.mean():.1%} of them JPEGs"
    found = {"samples": len(records), "source_pixels": int(pixels.sum()), "words": words}
    share = {"jpeg_bytes": int(lengths[jpeg].sum()), "jpeg_percent": round(100 * float(jpeg.mean()), 1)}
    return found | share


def indexed_file(path: Path) -> Path:
    """Return the same file with an index for crops in its JPEGs, written unless it exists."""
    from ffcv_gpu.convert.beton import BetonDataset
    from ffcv_gpu.fields import RGBImageField
    from ffcv_gpu.writer import DatasetWriter

    def write(part: Path) -> None:
        stored = BetonDataset(path, decode=False)
        fields = stored.fields | {"image": RGBImageField(crop_index=True)}
        DatasetWriter(part, fields, progress=False).from_indexed_dataset(stored)

    return written(path.with_suffix(".indexed.beton"), write)


def stored_file(
    stored: Stored,
    photos: Photos,
    arguments: argparse.Namespace,
    python: str | None,
    samples: int | None = None,
) -> tuple[Path, str]:
    """Return a file of these photos, written unless it exists, and the name of its writer.

    FFCV writes it in its `python`, or ffcv_gpu if that is None. `samples` overrides that of the arguments;
    photos are repeated as needed.
    """
    samples = samples or arguments.samples
    writer = Contender(f"FFCV {FFCV_VERSION}", FFCV.script, python=python) if python else OWN
    words = "-".join(str(value) for value in stored.field.values())
    target = arguments.work / f"{writer.name.replace(' ', '-')}-{words}-{samples}-{photos.digest}.beton"

    def write(part: Path) -> None:
        say(f"writing {stored.name}, {samples} samples, by {writer.name}")
        source = {} if python else {"source": "pillow"}
        by_worker(writer, part, photos.listing(arguments.work), samples, **source, **stored.field)

    return written(target, write), writer.name


def by_worker(writer: Contender, target: Path, listing: Path, count: int, **field: Any) -> None:
    """Let a worker write `count` samples of listed photographs, on all cores."""
    cores = len(os.sched_getaffinity(0))
    with started(writer, cores) as (worker, _):
        worker.ask("write", target=str(target), listing=str(listing), count=count, workers=cores, **field)

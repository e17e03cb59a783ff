"""The files that benchmarks read: photographs stored in one way or another, and what is in such a file."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import written
from benchmarks.harness import Contender, started
from benchmarks.peers import FFCV
from benchmarks.photos import Photos
from ffcv_gpu.format import ImageMode, open_beton

__all__ = ["Stored", "stored_facts", "stored_file"]


@dataclass(frozen=True)
class Stored:
    """How a file's images are stored: FFCV's RGBImageField arguments; about how many per cent are JPEGs."""

    name: str
    field: dict[str, Any]
    percent: int = 100

    @property
    def has_jpegs(self) -> bool:
        """Whether any image is one."""
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


def stored_file(
    stored: Stored,
    photos: Photos,
    arguments: argparse.Namespace,
    python: str | None,
    samples: int | None = None,
) -> tuple[Path, str]:
    """Return a file of these photos stored so, written unless it is there, and who wrote it.

    By FFCV in its `python`, else by us. `samples`, if not those of the arguments, are photos over and over.
    """
    samples = samples or arguments.samples
    writer = f"FFCV {FFCV.version}" if python else "ffcv_gpu"
    script = FFCV.script if python else "own_worker.py"
    words = "-".join(str(value) for value in stored.field.values())
    target = arguments.work / f"{writer.replace(' ', '-')}-{words}-{samples}-{photos.digest}.beton"

    def write(part: Path) -> None:
        print(f"writing {stored.name}, {samples} samples, by {writer}", file=sys.stderr, flush=True)
        cores = len(os.sched_getaffinity(0))
        request = {"listing": str(photos.listing(arguments.work)), "count": samples, "workers": cores}
        source = {} if python else {"source": "pillow"}
        with started(Contender(writer, script, python=python), cores) as (worker, _):
            worker.ask("write", target=str(part), **request, **source, **stored.field)

    return written(target, write), writer

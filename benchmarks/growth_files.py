"""The files of ``growth``: the photographs unchanged, resized to one size, or cut into many tiny tiles."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from benchmarks.files import written
from benchmarks.forecast import say
from benchmarks.photos import Photos, fitted, read_photo
from benchmarks.stored import OWN, by_worker
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter

__all__ = ["file_of"]

#: quality of JPEGs, number of resized photographs, number of tiles
QUALITY, RESIZED, TILES = 90, 64, 4096


def file_of(settings: Mapping[str, Any], photos: Photos, work: Path) -> Path:
    """Return the file that these settings describe, written unless it exists.

    Parameters
    ----------
    settings
        `source`: "photos" (JPEGs, longer side at most `pixels`), "resized" (JPEGs of `pixels` by 9 / 16 of
        that, enlarged if needed) or "small raw" (squares of `pixels`); `samples`
    photos
    work
    """
    source, pixels, samples = settings["source"], settings["pixels"], settings["samples"]
    name = f"growth-{source.replace(' ', '-')}-{pixels}-{samples}-{photos.digest}.beton"

    def write(part: Path) -> None:
        say(f"writing {samples:,} samples, {source}, {pixels} pixels")
        SOURCES[source](part, photos, pixels, samples, work)

    return written(work / name, write)


def write_photos(part: Path, photos: Photos, pixels: int, samples: int, work: Path) -> None:
    """Re-encode all of them, with a longer side of at most `pixels`."""
    field = {"write_mode": "jpg", "max_resolution": pixels, "jpeg_quality": QUALITY}
    by_worker(OWN, part, photos.listing(work), samples, source="pillow", **field)


def write_resized(part: Path, photos: Photos, pixels: int, samples: int, work: Path) -> None:
    """Resize the centres of the first photographs; enlarged ones are smoother than real photographs."""
    folder = work / f"resized-{pixels}-{photos.digest}"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, path in enumerate(photos.paths[:RESIZED]):
        made.append(folder / f"{number:04}.jpg")
        image = fitted(path, pixels, pixels * 9 // 16)
        made[-1].write_bytes(simplejpeg.encode_jpeg(image, QUALITY, "RGB", "420"))
    resized = Photos(tuple(made), photos.source, f"{photos.digest}-{pixels}")
    by_worker(OWN, part, resized.listing(work), samples, write_mode="jpg", jpeg_quality=QUALITY)


class Tiles:
    """(square, number) for `samples` samples: pieces of photographs, repeated as needed."""

    def __init__(self, photos: Photos, pixels: int, samples: int) -> None:
        rng, tiles = np.random.default_rng(0), []
        images = [read_photo(path) for path in photos.paths[:RESIZED]]
        images = [image for image in images if min(image.shape[:2]) >= pixels]
        if not images:
            raise ValueError(f"no photograph has {pixels} by {pixels} pixels")
        for number in range(min(TILES, samples)):
            image = images[number % len(images)]
            y, x = (int(rng.integers(0, image.shape[axis] - pixels + 1)) for axis in (0, 1))
            tiles.append(np.ascontiguousarray(image[y : y + pixels, x : x + pixels]))
        self._tiles, self._samples = tiles, samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        return self._tiles[index % len(self._tiles)], index


def write_small_raw(part: Path, photos: Photos, pixels: int, samples: int, _: Path) -> None:
    """Write squares of `pixels`, each with a separate payload."""
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer = DatasetWriter(str(part), fields, num_workers=len(os.sched_getaffinity(0)), progress=False)
    writer.from_indexed_dataset(Tiles(photos, pixels, samples))


SOURCES: dict[str, Callable[[Path, Photos, int, int, Path], None]] = {
    "photos": write_photos,
    "resized": write_resized,
    "small raw": write_small_raw,
}

"""Sizes and loading times of some of a file's images, rewritten at other sizes, qualities and chroma."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.doctor.quality import quality_of
from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.survey import survey as look_at
from ffcv_gpu.doctor.trial import REPEATS, Setup, Trial, run_trial
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.jpeg.rewrite import decode_rgb, encode_jpeg
from ffcv_gpu.writer import DatasetWriter

__all__ = ["Chroma", "Density", "Point", "Variants", "load_variants", "point_of"]

Pixels = npt.NDArray[np.uint8]

PAGE_BYTES = 2 << 20
#: megapixels of the images that are rewritten
VARIANT_MEGAPIXELS = 10.0
#: scales of the longer side and JPEG qualities of the variants; None: raw
VARIANTS = ((1.0, 90), (1.0, 75), (0.6, 90), (0.6, 75), (0.3, 90), (0.3, 75), (1.0, None), (0.5, None))
#: subsampling in JPEG_FACTS: 4:4:4, 4:2:2 and 4:4:0 have more chroma samples than 4:2:0
FINE = (0, 1, 3)
#: a file with at most this share of finer JPEGs is treated as 4:2:0
FEW = 0.05


@dataclass(frozen=True)
class Density:
    """JPEG bytes per pixel at one quality, which fall as a power of the image's pixels."""

    factor: float
    power: float

    def bytes_of(self, pixels: Any) -> Any:
        """Return the bytes of JPEGs with these numbers of pixels."""
        return self.factor * np.asarray(pixels, np.float64) ** (1 + self.power)


@dataclass(frozen=True)
class Point:
    """A trial with images of similar size, and their mean pixels and JPEG bytes."""

    trial: Trial
    pixels: float
    jpeg_pixels: float
    jpeg_bytes: float


@dataclass(frozen=True)
class Chroma:
    """The effect of 4:2:0 on JPEGs of which some or all have finer chroma.

    Attributes
    ----------
    share : float
        Share of the examined JPEGs that are finer.
    quality : int
        The median quality of the finer ones now, on libjpeg's scale.
    bytes_ratio : float
        Bytes of all JPEGs after the finer ones are re-encoded as 4:2:0, each at its own quality, divided by
        their bytes now.
    seconds_ratio : float
        CPU seconds to decode them then, divided by those now.
    pixels, size_bytes : float
        Mean per JPEG now.
    """

    share: float
    quality: int
    bytes_ratio: float
    seconds_ratio: float
    pixels: float
    size_bytes: float


@dataclass(frozen=True)
class Variants:
    """Results for the variants.

    Attributes
    ----------
    points : list of Point
        One per variant.
    density : mapping of quality to Density
        Of 4:2:0 JPEGs.
    chroma : Chroma or None
        None for a file of 4:2:0 (or grey) images.
    """

    points: list[Point]
    density: Mapping[int, Density]
    chroma: Chroma | None = None


@dataclass(frozen=True)
class _Photo:
    pixels: Pixels
    jpeg: bytes = b""
    fine: bool = False


@dataclass
class _Folder:
    """Writes images into new files in a folder, and loads them."""

    path: Path
    setup: Setup
    page_size: int
    written: int = field(default=0)

    def load(self, images: Sequence[Any], **how: Any) -> tuple[Point, float]:
        """Return a trial of loading the images, and their mean bytes; `how` goes to `RGBImageField`."""
        self.written += 1
        path = str(self.path / f"{self.written}.beton")
        writer = DatasetWriter(
            path, {"image": RGBImageField(**how)}, self.page_size, num_workers=1, progress=False
        )
        writer.from_indexed_dataset([(image,) for image in images])
        facts = look_at(path, {})
        trial = run_trial(path, self.setup, range(len(images)), batch_size=len(images))
        return point_of(facts, range(len(images)), trial), float(facts.image_bytes.mean())


def load_variants(survey: Survey, setup: Setup) -> Variants:
    """Rewrite some images of the file in each variant and load them; takes a few seconds."""
    photos = _photos(survey, survey.rows_of_pixels(VARIANT_MEGAPIXELS, 4, 48, survey.own_rows), setup)
    alone = Setup(setup.batch_size, side=setup.side, pipelines={"image": setup.image_steps(survey.image)})
    points, sizes = [], dict[int, list[tuple[float, float]]]()
    longest = max(max(photo.pixels.shape[:2]) for photo in photos)
    page = max(PAGE_BYTES, 1 << max(photo.pixels.nbytes for photo in photos).bit_length())
    with tempfile.TemporaryDirectory(prefix="ffcv_gpu-doctor-") as name:
        folder = _Folder(Path(name), alone, page)
        for scale, quality in VARIANTS:
            mode, limit = "raw" if quality is None else "jpg", max(8, round(scale * longest))
            point, size = folder.load(
                [photo.pixels for photo in photos],
                write_mode=mode,
                max_resolution=limit,
                jpeg_quality=quality,
                crop_index=survey.crop_index,
            )
            points.append(point)
            if quality is not None:
                sizes.setdefault(quality, []).append((point.jpeg_pixels, size))
    density = {quality: _density(found) for quality, found in sizes.items()}
    return Variants(points, density, _chroma([photo for photo in photos if photo.jpeg]))


def _chroma(photos: Sequence[_Photo]) -> Chroma | None:
    """Re-encode the finer JPEGs as 4:2:0 and compare; None if few are finer."""
    qualities = [quality_of(photo.jpeg) or 90 if photo.fine else 0 for photo in photos]
    fine = [quality for quality in qualities if quality]
    if len(fine) <= FEW * len(photos):
        return None
    now = [photo.jpeg for photo in photos]
    then = [
        encode_jpeg(photo.pixels, quality) if quality else photo.jpeg
        for photo, quality in zip(photos, qualities, strict=True)
    ]
    size = sum(map(len, now))
    return Chroma(
        len(fine) / len(photos),
        int(np.median(fine)),
        sum(map(len, then)) / size,
        _seconds_ratio(now, then),
        sum(photo.pixels.size / 3 for photo in photos) / len(photos),
        size / len(photos),
    )


def _seconds_ratio(now: Sequence[bytes], then: Sequence[bytes]) -> float:
    """Return the decode time ratio, in CPU time, so that other processes do not matter."""
    spent = np.full((len(now), 2), np.inf)
    for _ in range(REPEATS):
        for row, pair in enumerate(zip(now, then, strict=True)):
            for column, data in enumerate(pair):
                header = scan_jpeg(data)
                out = np.empty((header.height, header.width, 3), np.uint8)
                begin = thread_time()
                decode_rgb(data, header, out)
                spent[row, column] = min(spent[row, column], thread_time() - begin)
    return float(spent[:, 1].sum() / spent[:, 0].sum())


def point_of(survey: Survey, rows: Sequence[int], trial: Trial) -> Point:
    """Return the trial with the mean sizes of its images."""
    if survey.image is None:
        return Point(trial, 0.0, 0.0, 0.0)
    jpeg = survey.jpeg[rows]
    pixels, size = survey.pixels[rows], survey.image_bytes[rows]
    means = (float(pixels[jpeg].mean()), float(size[jpeg].mean())) if jpeg.any() else (0.0, 0.0)
    return Point(trial, float(pixels.mean()), *means)


def _density(found: Sequence[tuple[float, float]]) -> Density:
    pixels, size = np.array(found, np.float64).T
    if np.ptp(np.log(pixels)) < 1e-6:
        return Density(float((size / pixels).mean()), 0.0)
    power, offset = np.polyfit(np.log(pixels), np.log(size / pixels), 1)
    return Density(float(np.exp(offset)), float(power))


def _photos(survey: Survey, rows: Sequence[int], setup: Setup) -> list[_Photo]:
    """Return images of the file as pixels, and as the stored JPEG where there is one."""
    assert survey.image is not None
    dataset = Dataset(survey.path, setup.custom_fields, os_cache=True)
    found = dataset.payloads(survey.image)
    assert found is not None
    photos = []
    for row in rows:
        stored = dataset.reader.view(int(found.offsets[row]), int(found.lengths[row]))
        height, width = int(survey.heights[row]), int(survey.widths[row])
        if survey.jpeg[row]:
            data, out = stored.tobytes(), np.empty((height, width, 3), np.uint8)
            header = scan_jpeg(data)
            photos.append(_Photo(decode_rgb(data, header, out), data, header.subsampling in FINE))
        else:
            photos.append(_Photo(np.asarray(stored).reshape(height, width, 3)))
    return photos

"""What a stage costs as a function of pixels and bytes, fitted on trials with variants of the images."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.survey import survey as look_at
from ffcv_gpu.doctor.trial import Setup, Trial, run_trial, usable_cpus
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.jpeg.rewrite import decode_rgb
from ffcv_gpu.loader.dataset import Dataset
from ffcv_gpu.writer import DatasetWriter

__all__ = ["Costs", "Density", "measure_costs", "nonnegative_fit"]

Values = npt.NDArray[np.float64]

PAGE_BYTES = 2 << 20
WORKER_STAGES = ("read", "check", "gather", "decode", "compose")
#: megapixels of the file's own images in a trial, and of those that are written anew
OWN_MEGAPIXELS, VARIANT_MEGAPIXELS = 24.0, 10.0
#: sizes (share of the longer side) and JPEG qualities of the variants; None: raw
VARIANTS = ((1.0, 90), (1.0, 75), (0.6, 90), (0.6, 75), (0.3, 90), (0.3, 75), (1.0, None), (0.5, None))


@dataclass(frozen=True)
class Density:
    """JPEG bytes of a pixel: it falls as a power of an image's pixels. One for each quality."""

    factor: float
    power: float

    def bytes_of(self, pixels: Any) -> Any:
        """Return the bytes of JPEGs with so many pixels each."""
        return self.factor * np.asarray(pixels, np.float64) ** (1 + self.power)


@dataclass(frozen=True)
class Costs:
    """Seconds of one thread for one sample.

    Attributes
    ----------
    decode : float64 (3,)
        Of one JPEG: a constant, for each pixel, for each byte.
    check : float
        For each byte.
    compose : float64 (2,)
        A constant (the output), for each pixel of the source.
    other : float
        Everything else in the workers: other fields, by sample.
    plan_sample, plan_batch : float
        In the one thread that plans and collects batches.
    contention : float
        n threads do n / (1 + contention x (n - 1)) times the work of one.
    density : mapping of quality to Density
    """

    decode: Values
    check: float
    compose: Values
    other: float
    plan_sample: float
    plan_batch: float
    contention: float
    density: dict[int, Density]

    def decode_seconds(self, pixels: Any, size_bytes: Any) -> Any:
        """Return the seconds of decoding JPEGs of so many pixels and bytes."""
        return self.decode[0] + self.decode[1] * np.asarray(pixels) + self.decode[2] * np.asarray(size_bytes)

    def compose_seconds(self, pixels: Any) -> Any:
        """Return the seconds of making outputs from sources of so many pixels."""
        return self.compose[0] + self.compose[1] * np.asarray(pixels)

    def speedup(self, threads: int) -> float:
        """Return how many times the work of one thread so many do on CPUs of their own."""
        return threads / (1 + self.contention * (threads - 1))


def nonnegative_fit(columns: npt.NDArray[Any], seconds: npt.NDArray[Any]) -> Values:
    """Return the weights >= 0 with the least relative error; all subsets of the few columns are tried."""
    scaled = columns / seconds[:, None]
    best, least = np.zeros(columns.shape[1]), np.inf
    for size in range(1, columns.shape[1] + 1):
        for subset in map(list, itertools.combinations(range(columns.shape[1]), size)):
            weights = np.linalg.lstsq(scaled[:, subset], np.ones(len(seconds)), rcond=None)[0]
            error = float(((scaled[:, subset] @ weights - 1) ** 2).sum())
            if (weights >= 0).all() and error < least * (1 - 1e-9):
                best, least = np.zeros(columns.shape[1]), error
                best[subset] = weights
    return best


@dataclass(frozen=True)
class _Point:
    """A trial with images of about one size."""

    trial: Trial
    pixels: float
    jpeg_pixels: float
    jpeg_bytes: float


def measure_costs(survey: Survey, setup: Setup) -> Costs:
    """Run the trials; takes some seconds."""
    rows = survey.rows_of_pixels(OWN_MEGAPIXELS, 16, 2048)
    batch = max(1, min(setup.batch_size, -(-len(rows) // 2)))
    own = run_trial(survey.path, setup, rows, batch_size=batch)
    small = run_trial(survey.path, setup, rows, batch_size=max(1, batch // 4))
    points = [_own_point(survey, rows, own)]
    density: dict[int, Density] = {}
    if survey.image is not None:
        variants, density = _variants(survey, setup)
        points += variants
    per_batch, per_sample = _planning(own, small)
    return Costs(
        _fit_decode(points),
        own.each("check") / max(survey.bytes_per_sample, 1.0),
        _fit_compose(points),
        own.stages.get("gather", 0.0) / own.samples,
        per_sample,
        per_batch,
        _contention(survey.path, setup, rows, own),
        density,
    )


def _own_point(survey: Survey, rows: Sequence[int], trial: Trial) -> _Point:
    if survey.image is None:
        return _Point(trial, 0.0, 0.0, 0.0)
    jpeg = survey.jpeg[rows]
    pixels, size = survey.pixels[rows], survey.image_bytes[rows]
    means = (float(pixels[jpeg].mean()), float(size[jpeg].mean())) if jpeg.any() else (0.0, 0.0)
    return _Point(trial, float(pixels.mean()), *means)


def _planning(own: Trial, small: Trial) -> tuple[float, float]:
    """Return seconds a batch and a sample in the conducting thread, from two batch sizes."""

    def conducting(trial: Trial) -> float:
        named = trial.stages.get("plan", 0.0) + trial.stages.get("finish", 0.0)
        workers = sum(trial.stages.get(name, 0.0) for name in WORKER_STAGES)
        return max(named, trial.cpu_seconds - workers)  # handing over, too, which no stage names

    both = np.array([[own.batches, own.samples], [small.batches, small.samples]], np.float64)
    batch, sample = nonnegative_fit(both, np.array([conducting(own), conducting(small)]))
    return float(batch), float(sample)


def _contention(path: str, setup: Setup, rows: Sequence[int], one: Trial) -> float:
    """Return what n threads lose to each other, from a trial with as many as CPUs and one with one."""
    threads = usable_cpus()
    if threads < 2:
        return 0.0
    many = run_trial(path, setup, rows, workers=threads, batch_size=-(-one.samples // one.batches))
    gain = one.seconds / many.seconds
    return float(np.clip((threads / max(gain, 0.1) - 1) / (threads - 1), 0.0, 1.0))


def _fit_decode(points: Sequence[_Point]) -> Values:
    jpegs = [point for point in points if point.trial.items.get("decode")]
    if not jpegs:
        return np.zeros(3)
    columns = np.array([[1.0, point.jpeg_pixels, point.jpeg_bytes] for point in jpegs])
    seconds = np.array([point.trial.each("decode") for point in jpegs])
    weights = nonnegative_fit(columns, seconds)
    if points[0] is jpegs[0]:  # the file's own JPEGs are what the numbers must be right for
        return np.asarray(weights * (seconds[0] / float(columns[0] @ weights)))
    return weights


def _fit_compose(points: Sequence[_Point]) -> Values:
    made = [point for point in points if point.trial.items.get("compose")]
    if not made:
        return np.zeros(2)
    columns = np.array([[1.0, point.pixels] for point in made])
    seconds = np.array([point.trial.stages["compose"] / point.trial.samples for point in made])
    weights = nonnegative_fit(columns, seconds)
    return np.asarray(weights * (seconds[0] / float(columns[0] @ weights)))


def _variants(survey: Survey, setup: Setup) -> tuple[list[_Point], dict[int, Density]]:
    """Write some images of the file anew in several sizes and qualities, and load each."""
    photos = _photos(survey, survey.rows_of_pixels(VARIANT_MEGAPIXELS, 4, 48), setup)
    alone = Setup(setup.batch_size, side=setup.side, pipelines={"image": setup.image_steps(survey.image)})
    points, sizes = [], dict[int, list[tuple[float, float]]]()
    longest = max(max(photo.shape[:2]) for photo in photos)
    page = max(PAGE_BYTES, 1 << max(photo.nbytes for photo in photos).bit_length())
    with tempfile.TemporaryDirectory(prefix="ffcv_gpu-doctor-") as folder:
        for number, (scale, quality) in enumerate(VARIANTS):
            path = str(Path(folder) / f"{number}.beton")
            limit = max(8, round(scale * longest))
            mode = "raw" if quality is None else "jpg"
            field = RGBImageField(mode, max_resolution=limit, jpeg_quality=quality)
            writer = DatasetWriter(path, {"image": field}, page_size=page, num_workers=1, progress=False)
            writer.from_indexed_dataset([(photo,) for photo in photos])
            point, mean_bytes = _variant_point(path, alone, len(photos))
            points.append(point)
            if quality is not None:
                sizes.setdefault(quality, []).append((point.jpeg_pixels, mean_bytes))
    return points, {quality: _density(found) for quality, found in sizes.items()}


def _variant_point(path: str, setup: Setup, count: int) -> tuple[_Point, float]:
    facts = look_at(path, {})
    trial = run_trial(path, setup, range(count), batch_size=count)
    return _own_point(facts, list(range(count)), trial), float(facts.image_bytes.mean())


def _density(found: Sequence[tuple[float, float]]) -> Density:
    pixels, size = np.array(found, np.float64).T
    if np.ptp(np.log(pixels)) < 1e-6:
        return Density(float((size / pixels).mean()), 0.0)
    power, offset = np.polyfit(np.log(pixels), np.log(size / pixels), 1)
    return Density(float(np.exp(offset)), float(power))


def _photos(survey: Survey, rows: Sequence[int], setup: Setup) -> list[npt.NDArray[np.uint8]]:
    """Return images of the file as pixels."""
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
            photos.append(decode_rgb(data, scan_jpeg(data), out))
        else:
            photos.append(np.asarray(stored).reshape(height, width, 3))
    return photos

"""The cost of each stage as a function of pixels and bytes, fitted to trials with variants of the images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.cpus import usable_cpus
from ffcv_gpu.doctor.crop_index import CropIndex
from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.trial import Setup, Trial, run_trial
from ffcv_gpu.doctor.variants import Chroma, Density, Point, Variants, load_variants, point_of

__all__ = ["Chroma", "Costs", "CropIndex", "Density", "Values", "measure_costs", "nonnegative_fit"]

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Seconds of one thread.

    Attributes
    ----------
    decode : float64 (3,)
        One 4:2:0 JPEG: a constant, per pixel, per byte.
    check : float
        Per byte.
    compose : float64 (2,)
        One image: a constant (the output), per source pixel.
    other : float
        Everything else in the workers (other fields), per sample.
    plan_sample, plan_batch : float
        Per sample and per batch, in the single thread that plans and collects batches.
    contention : float
        n threads do n / (1 + contention x (n - 1)) times the work of one.
    density : mapping of quality to Density
        Of re-encoded JPEGs, which are 4:2:0.
    own_decode : float
        Factor on `decode` for the file's own JPEGs: 1 if they are 4:2:0 (or grey).
    chroma : Chroma or None
        The effect of 4:2:0 on the file's own JPEGs; None if they are 4:2:0 already.
    others : mapping of str to float
        Seconds per sample in ``decode`` and ``compose`` for the images of all other fields.
    crop_index : CropIndex or None
        The effect of an index for crops on the file's own JPEGs; None if there is none, or unmeasured.
    """

    decode: Values
    check: float
    compose: Values
    other: float
    plan_sample: float
    plan_batch: float
    contention: float
    density: Mapping[int, Density]
    own_decode: float = 1.0
    chroma: Chroma | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    crop_index: CropIndex | None = None

    def decode_seconds(self, pixels: Any, size_bytes: Any) -> Any:
        """Return the seconds to decode JPEGs of these numbers of pixels and bytes."""
        return self.decode[0] + self.decode[1] * np.asarray(pixels) + self.decode[2] * np.asarray(size_bytes)

    def compose_seconds(self, pixels: Any) -> Any:
        """Return the seconds to make outputs from sources of these numbers of pixels."""
        return self.compose[0] + self.compose[1] * np.asarray(pixels)

    def speedup(self, threads: int) -> float:
        """Return how many times the work of one thread `threads` do, each on its own CPU."""
        return threads / (1 + self.contention * (threads - 1))


def nonnegative_fit(columns: npt.NDArray[Any], seconds: npt.NDArray[Any]) -> Values:
    """Return the weights >= 0 with the least relative error; tries all subsets of the few columns."""
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


def measure_costs(survey: Survey, setup: Setup) -> Costs:
    """Run the trials and fit the costs; takes a few seconds."""
    rows = survey.own_rows
    batch = max(1, min(setup.batch_size, -(-len(rows) // 2)))
    own = run_trial(survey.path, setup, rows, batch_size=batch)
    other = run_trial(survey.path, setup, rows, batch_size=batch // 4 if batch >= 4 else 4 * batch)
    main = _main_field(survey, setup, rows, own, batch)
    first = point_of(survey, rows, main)
    variants = Variants([], {}) if survey.image is None else load_variants(survey, setup)
    decode, own_decode = _fit_decode(first, variants)
    per_batch, per_sample = _planning(own, other)
    return Costs(
        decode,
        own.stages.get("check", 0.0) / own.samples / max(survey.bytes_per_sample, 1.0),
        _fit_compose([first, *variants.points]),
        own.stages.get("gather", 0.0) / own.samples,
        per_sample,
        per_batch,
        _contention(survey.path, setup, rows, own),
        variants.density,
        own_decode,
        variants.chroma,
        {stage: _difference(own, main, stage) / own.samples for stage in ("decode", "compose")},
    )


def _main_field(survey: Survey, setup: Setup, rows: Sequence[int], own: Trial, batch_size: int) -> Trial:
    """Return the trial of the surveyed field without other images; `own` is that of all fields."""
    if survey.image is None:
        return replace(own, stages={}, items={})
    if not survey.others:
        return own
    return run_trial(survey.path, setup.without(survey.others), rows, batch_size=batch_size)


def _difference(own: Trial, main: Trial, stage: str) -> float:
    return max(0.0, own.stages.get(stage, 0.0) - main.stages.get(stage, 0.0))


def _planning(own: Trial, other: Trial) -> tuple[float, float]:
    """Return seconds per batch and per sample in the conducting threads, from two batch sizes."""
    both = np.array([[own.batches, own.samples], [other.batches, other.samples]], np.float64)
    batch, sample = nonnegative_fit(both, np.array([own.conducting_seconds, other.conducting_seconds]))
    return float(batch), float(sample)


def _contention(path: str, setup: Setup, rows: Sequence[int], one: Trial) -> float:
    """Return `Costs.contention`, from a trial with one thread per CPU and one with a single thread."""
    threads = usable_cpus()
    if threads < 2:
        return 0.0
    many = run_trial(path, setup, rows, workers=threads, batch_size=-(-one.samples // one.batches))
    gain = one.seconds / many.seconds
    return float(np.clip((threads / max(gain, 0.1) - 1) / (threads - 1), 0.0, 1.0))


def _fit_decode(own: Point, variants: Variants) -> tuple[Values, float]:
    """Return the weights for 4:2:0, and the factor on them for the file's own JPEGs."""
    chroma = variants.chroma
    jpegs = [point for point in variants.points if point.trial.items.get("decode")]
    own_is_jpeg = bool(own.trial.items.get("decode"))
    if own_is_jpeg and chroma is None:
        jpegs.append(own)
    if not jpegs:
        return np.zeros(3), 1.0
    columns = np.array([[1.0, point.jpeg_pixels, point.jpeg_bytes] for point in jpegs])
    weights = nonnegative_fit(columns, np.array([point.trial.each("decode") for point in jpegs]))
    own_decode = 1.0
    if chroma is not None:  # the ratio measured on pairs, relative to what the weights predict for them
        then = np.array([1.0, chroma.pixels, chroma.bytes_ratio * chroma.size_bytes]) @ weights
        now = np.array([1.0, chroma.pixels, chroma.size_bytes]) @ weights
        own_decode = float(then / (now * chroma.seconds_ratio))
    if own_is_jpeg:  # scaled so that the prediction for the file's own JPEGs is exact
        said = own_decode * np.array([1.0, own.jpeg_pixels, own.jpeg_bytes]) @ weights
        weights *= own.trial.each("decode") / said
    return weights, own_decode


def _fit_compose(points: Sequence[Point]) -> Values:
    made = [point for point in points if point.trial.items.get("compose")]
    if not made:
        return np.zeros(2)
    columns = np.array([[1.0, point.pixels] for point in made])
    seconds = np.array([point.trial.stages["compose"] / point.trial.samples for point in made])
    weights = nonnegative_fit(columns, seconds)
    return np.asarray(weights * (seconds[0] / float(columns[0] @ weights)))

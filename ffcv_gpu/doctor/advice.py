"""What to change, and the speed and file size that the model predicts for each change.

The knobs: how images are stored (resolution, quality, chroma subsampling, share of JPEGs, an index of their
rows), and how the file is loaded (threads, batch size, cache mode).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ffcv_gpu.doctor.costs import Costs, Values
from ffcv_gpu.doctor.disk import Disk
from ffcv_gpu.doctor.model import Load, Prediction, Situation, load_of, predict
from ffcv_gpu.doctor.survey import Survey

__all__ = ["FILE_KNOBS", "LEAST_SOURCE", "LOADER_KNOBS", "SIDES", "Change", "advise", "first_of_each_knob"]

#: what can be changed in the file, and in the loader
FILE_KNOBS = ("resolution", "quality", "subsampling", "JPEG fraction", "crop index")
LOADER_KNOBS = ("workers", "batch size", "cache mode")

SIDES = (2048, 1536, 1024, 768, 640, 512, 448, 384, 320, 256, 192, 160, 128, 96, 64)
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: factor of the larger batch size that is tried
LARGER_BATCH = 4
#: changes that gain less than this factor are not reported
WORTH = 1.05
#: sources smaller than this many times the output lose detail, as crops are enlarged
LEAST_SOURCE = 1.1


@dataclass(frozen=True)
class Change:
    """One thing to change.

    Attributes
    ----------
    what : str
        The arguments to set, with a few words of explanation.
    prediction : Prediction
        Of loading after the change.
    file_bytes : float
        Predicted size of the file.
    knob : str
        One of `FILE_KNOBS` or `LOADER_KNOBS`.
    """

    what: str
    prediction: Prediction
    file_bytes: float
    knob: str


def advise(
    costs: Costs, disk: Disk, survey: Survey, situation: Situation, side: int, now: Prediction
) -> list[Change]:
    """Return the changes that pay, best first; if your step is the limit, those that save space instead."""
    changes = [
        Change(what, predict(costs, disk, load, where), survey.file_bytes + added * survey.samples, knob)
        for knob, what, load, added, where in _candidates(costs, survey, situation, side)
    ]
    if now.bottleneck == "step":
        keep = [change for change in changes if change.prediction.images_per_second >= now.images_per_second]
        smaller = [change for change in keep if change.file_bytes < survey.file_bytes / WORTH]
        return sorted(smaller, key=lambda change: change.file_bytes)
    faster = now.images_per_second * WORTH
    keep = [change for change in changes if change.prediction.images_per_second >= faster]
    return sorted(keep, key=lambda change: (-change.prediction.images_per_second, change.file_bytes))


def first_of_each_knob(changes: Sequence[Change]) -> list[Change]:
    """Return each knob's first change, and the one with the smallest file if it differs."""
    chosen = []
    for knob in (*FILE_KNOBS, *LOADER_KNOBS):
        own = [change for change in changes if change.knob == knob]
        chosen += own[:1]
        smallest = min(own, key=lambda change: change.file_bytes, default=None)
        if smallest is not None and smallest.file_bytes < own[0].file_bytes / WORTH:
            chosen.append(smallest)
    return sorted(chosen, key=changes.index)


Candidate = tuple[str, str, Load, float, Situation]


def _candidates(costs: Costs, survey: Survey, situation: Situation, side: int) -> Iterator[Candidate]:
    """Yield (knob, what, load, additional bytes per sample, situation)."""
    now = load_of(costs, survey)
    for knob, what, where in _loaded_otherwise(situation):
        yield knob, what, now, 0.0, where
    if survey.image is None:
        return
    for knob, what, load in _written_anew(costs, survey, side):
        yield knob, what, load, load.read_bytes - now.read_bytes, situation


def _loaded_otherwise(situation: Situation) -> Iterator[tuple[str, str, Situation]]:
    cpus = situation.cpus
    if situation.workers < cpus:
        yield (
            "workers",
            f"num_workers={cpus}, as many as there are CPUs",
            replace(situation, workers=cpus),
        )
    if situation.cold and situation.workers < 4 * cpus:
        yield (
            "workers",
            f"num_workers={4 * cpus}, more threads that wait for storage in parallel",
            replace(situation, workers=4 * cpus),
        )
    if situation.cold and not situation.read_ahead:
        yield "cache mode", "os_cache=False, which reads ahead", replace(situation, read_ahead=True)
    larger = LARGER_BATCH * situation.batch_size
    # The step time is known only for the present batch size.
    if situation.step_seconds is None:
        yield "batch size", f"batch_size={larger}", replace(situation, batch_size=larger)


def _written_anew(costs: Costs, survey: Survey, side: int) -> Iterator[tuple[str, str, Load]]:
    pixels = survey.pixels.astype(np.float64)
    for quality, density in costs.density.items():
        made = density.bytes_of(pixels)
        yield (
            "quality",
            f"all JPEG (4:2:0), re-encoded from pixels at jpeg_quality={quality}",
            load_of(costs, survey, jpeg=np.ones_like(pixels), jpeg_bytes=made),
        )
    if costs.chroma is not None:
        quality, plain = costs.chroma.quality, costs.chroma.bytes_ratio * survey.image_bytes
        yield (
            "subsampling",
            f"subsampling='4:2:0', jpeg_quality={quality}: {costs.chroma.share:.0%} of the JPEGs have finer"
            " chroma, at about this quality",
            load_of(costs, survey, jpeg=survey.jpeg.astype(np.float64), jpeg_bytes=plain),
        )
    kept = np.where(survey.jpeg, survey.image_bytes, costs.density[90].bytes_of(pixels))
    for fraction in FRACTIONS:
        share = np.full_like(pixels, fraction)
        yield (
            "JPEG fraction",
            f"write_mode='proportion', compress_probability={fraction:g} (the rest raw, same size)",
            load_of(costs, survey, jpeg=share, jpeg_bytes=kept, own=survey.jpeg),
        )
    for what, load in _shrunk(costs, survey, side, kept):
        yield "resolution", what, load
    if costs.crop_index is not None:
        larger = survey.image_bytes + costs.crop_index.bytes_added * survey.jpeg.astype(np.float64)
        factor = costs.crop_index.seconds_ratio
        yield (
            "crop index",
            "crop_index=True (ffcv-gpu write --crop-index): of JPEGs, the CPU decodes only what a crop needs",
            load_of(costs, survey, jpeg_bytes=larger, own=survey.jpeg, decode_factor=factor),
        )


def _shrunk(costs: Costs, survey: Survey, side: int, kept: Values) -> Iterator[tuple[str, Load]]:
    """Yield each smaller size; images within it keep their `kept` bytes, or become 4:2:0 too."""
    pixels = survey.pixels.astype(np.float64)
    if costs.chroma is not None:
        kept = np.where(survey.jpeg, costs.chroma.bytes_ratio * survey.image_bytes, kept)
    longer = np.maximum(survey.heights, survey.widths)
    plain = "" if costs.chroma is None else ", subsampling='4:2:0'"
    for limit in SIDES:
        if not LEAST_SOURCE * side <= limit < survey.longest_side:
            continue
        scale = np.minimum(1.0, limit / longer)
        shrunk = pixels * scale**2
        made = np.where(scale < 1, costs.density[90].bytes_of(shrunk), kept)
        own = survey.jpeg & (scale == 1) & (costs.chroma is None)
        for raw, words in ((False, f"JPEG, jpeg_quality=90{plain}"), (True, "write_mode='raw'")):
            jpeg = np.zeros_like(pixels) if raw else np.ones_like(pixels)
            load = load_of(costs, survey, jpeg=jpeg, pixels=shrunk, jpeg_bytes=made, own=own)
            yield f"max_resolution={limit}, {words}", load

"""What to change, and what the model says would come of it: other sizes, qualities, JPEG shares, threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ffcv_gpu.doctor.costs import Costs
from ffcv_gpu.doctor.disk import Disk
from ffcv_gpu.doctor.model import Load, Prediction, Situation, load_of, predict
from ffcv_gpu.doctor.survey import Survey

__all__ = ["Change", "advise"]

SIDES = (2048, 1536, 1024, 768, 640, 512, 448, 384, 320, 256, 192, 160, 128, 96, 64)
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: changes that gain less are not worth the reading
WORTH = 1.05
#: sources smaller than this many times the output lose what crops enlarge
LEAST_SOURCE = 1.1


@dataclass(frozen=True)
class Change:
    """One thing to change.

    Attributes
    ----------
    what : str
        In words and as an argument.
    file_bytes : float
        What the file would take then.
    """

    what: str
    prediction: Prediction
    file_bytes: float


def advise(
    costs: Costs, disk: Disk, survey: Survey, situation: Situation, side: int, now: Prediction
) -> list[Change]:
    """Return the changes that pay, best first; where your step is the limit, those that save room instead."""
    changes = [
        Change(what, predict(costs, disk, load, where), survey.file_bytes + added * survey.samples)
        for what, load, added, where in _candidates(costs, survey, situation, side)
    ]
    if now.bottleneck == "step":
        keep = [change for change in changes if change.prediction.images_per_second >= now.images_per_second]
        smaller = [change for change in keep if change.file_bytes < survey.file_bytes / WORTH]
        return sorted(smaller, key=lambda change: change.file_bytes)
    faster = now.images_per_second * WORTH
    keep = [change for change in changes if change.prediction.images_per_second >= faster]
    return sorted(keep, key=lambda change: (-change.prediction.images_per_second, change.file_bytes))


Candidate = tuple[str, Load, float, Situation]


def _candidates(costs: Costs, survey: Survey, situation: Situation, side: int) -> Iterator[Candidate]:
    """Yield (what, load, bytes a sample more than now, situation)."""
    now = load_of(costs, survey)
    if situation.workers < situation.cpus:
        more = replace(situation, workers=situation.cpus)
        yield f"num_workers={situation.cpus}, as many as there are CPUs", now, 0.0, more
    if situation.cold and situation.workers < 4 * situation.cpus:
        more = replace(situation, workers=4 * situation.cpus)
        yield f"num_workers={4 * situation.cpus}, threads that wait for storage side by side", now, 0.0, more
    if situation.cold and not situation.read_ahead:
        yield "os_cache=False, which reads ahead", now, 0.0, replace(situation, read_ahead=True)
    if survey.image is None:
        return
    for what, load in _rewritten(costs, survey, side):
        yield what, load, load.read_bytes - now.read_bytes, situation


def _rewritten(costs: Costs, survey: Survey, side: int) -> Iterator[tuple[str, Load]]:
    pixels = survey.pixels.astype(np.float64)
    for quality, density in costs.density.items():
        made = density.bytes_of(pixels)
        yield (
            f"all JPEG, written anew at jpeg_quality={quality}",
            load_of(costs, survey, jpeg=np.ones_like(pixels), jpeg_bytes=made),
        )
    kept = np.where(survey.jpeg, survey.image_bytes, costs.density[90].bytes_of(pixels))
    for fraction in FRACTIONS:
        share = np.full_like(pixels, fraction)
        yield (
            f"write_mode='proportion', compress_probability={fraction:g} (the rest raw, same size)",
            load_of(costs, survey, jpeg=share, jpeg_bytes=kept),
        )
    longer = np.maximum(survey.heights, survey.widths)
    for limit in SIDES:
        if not LEAST_SOURCE * side <= limit < survey.longest_side:
            continue
        scale = np.minimum(1.0, limit / longer)
        shrunk = pixels * scale**2
        made = np.where(scale < 1, costs.density[90].bytes_of(shrunk), kept)
        for raw, words in ((False, "JPEG, jpeg_quality=90"), (True, "write_mode='raw'")):
            jpeg = np.zeros_like(pixels) if raw else np.ones_like(pixels)
            yield (
                f"max_resolution={limit}, {words}",
                load_of(costs, survey, jpeg=jpeg, pixels=shrunk, jpeg_bytes=made),
            )

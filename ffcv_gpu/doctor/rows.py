"""What an index of their rows would change for the file's own JPEGs, measured with and without it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.trial import Setup
from ffcv_gpu.doctor.variants import PAGE_BYTES, Folder, payloads_of

__all__ = ["Rows", "measure_rows"]

#: megapixels and number of the JPEGs in a trial: with fewer, the sizes of their random crops would decide
MEGAPIXELS, LEAST, MOST = 20.0, 16, 128
#: times that both files are loaded in turn, so that other processes slow down both
ROUNDS = 2


@dataclass(frozen=True)
class Rows:
    """The effect of an index of their rows on the file's own JPEGs.

    Attributes
    ----------
    seconds_ratio : float
        Seconds to decode them with the index, divided by those without, for crops as in the pipeline.
    bytes_added : float
        Mean size of the index, per JPEG.
    """

    seconds_ratio: float
    bytes_added: float


def measure_rows(survey: Survey, setup: Setup) -> Rows | None:
    """Write some of the JPEGs with and without the index, and load both files; takes some seconds.

    None if it would change nothing: the file has an index or no JPEGs, the pipeline does not crop, or the CPU
    decodes only what is cropped in any case (libturbojpeg 3).
    """
    if survey.image is None or survey.row_index or not (rows := _chosen(survey)):
        return None
    jpegs = [payload.tobytes() for payload in payloads_of(survey, rows, setup)]
    page = max(PAGE_BYTES, 2 << max(map(len, jpegs)).bit_length())
    with tempfile.TemporaryDirectory(prefix="ffcv_gpu-doctor-") as name:
        folder = Folder(Path(name), setup.alone(survey.image), page)
        files = [folder.write(jpegs, row_index=on, check="header") for on in (False, True)]
        seconds = [np.inf, np.inf]
        for _ in range(ROUNDS):
            trials = [folder.load(file).trial for file in files]
            if [trial.decodes_crops for trial in trials] != [False, True]:
                return None
            seconds = [min(pair) for pair in zip(seconds, (t.each("decode") for t in trials), strict=True)]
    plain, indexed = (float(file.image_bytes.mean()) for file in files)
    return Rows(float(seconds[1] / seconds[0]), indexed - plain)


def _chosen(survey: Survey) -> list[int]:
    """Return JPEGs all over the file; those of a small file more than once, as each has a crop of its own."""
    jpegs = [row for row in survey.own_rows if survey.jpeg[row]]
    if not jpegs:
        return []
    megapixels = float(survey.pixels[jpegs].mean()) / 1e6
    number = int(np.clip(MEGAPIXELS / megapixels, LEAST, MOST))
    few = survey.rows_of_pixels(MEGAPIXELS, LEAST, MOST, jpegs)
    return [few[k % len(few)] for k in range(number)]

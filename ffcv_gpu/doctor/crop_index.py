"""What an index for crops would change for the file's own JPEGs: they are decoded with and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import thread_time
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.trial import REPEATS, Setup, loader_of
from ffcv_gpu.format import JPEG_FACTS, JpegFlag
from ffcv_gpu.jpeg.base import Encoded, JpegBackend
from ffcv_gpu.jpeg.crop_index import with_crop_index
from ffcv_gpu.jpeg.cropped import Cropped
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.loader import Loader
from ffcv_gpu.loader.needed import cropped_fields, needed_boxes
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.plan import Planner
from ffcv_gpu.steps import IntArray

__all__ = ["CropIndex", "measure_crop_index"]

#: megapixels and number of JPEGs, and of crops of each: they are random
MEGAPIXELS, LEAST, MOST, CROPS = 20.0, 4, 96, 4
#: JPEGs per call, so that what a call costs itself does not matter
TOGETHER = 16


@dataclass(frozen=True)
class CropIndex:
    """The effect of an index for crops on the file's own JPEGs.

    Attributes
    ----------
    seconds_ratio : float
        CPU seconds to decode them with the index, for crops as in the pipeline, divided by those without.
    bytes_added : float
        Mean size of the index, per JPEG.
    """

    seconds_ratio: float
    bytes_added: float


def measure_crop_index(survey: Survey, setup: Setup) -> CropIndex | None:
    """Decode some of the JPEGs with and without the index; takes a second or two.

    None if it would change nothing: the file has no JPEGs or has an index, or the pipeline does not crop.
    """
    jpegs = [] if survey.image is None else [row for row in survey.own_rows if survey.jpeg[row]]
    if survey.crop_index or not jpegs:
        return None
    rows = np.array(survey.rows_of_pixels(MEGAPIXELS, LEAST, MOST, jpegs))
    with loader_of(survey.path, setup, rows.tolist(), batch_size=len(rows)) as loader:
        programs = [program for program in loader._programs if program.field == survey.image]
        if survey.image not in cropped_fields(programs):
            return None
        backend: Any = loader._host_backend(programs)
        plain, boxes = _examples(loader, programs, rows)
    indexed = [with_crop_index(data, scan_jpeg(data)) or data for data in plain]
    seconds = np.zeros((2, CROPS))
    for lo in range(0, len(rows), TOGETHER):
        part = rows[lo : lo + TOGETHER]
        now = _encoded(plain[lo : lo + TOGETHER], survey, part, 0)
        then = _encoded(indexed[lo : lo + TOGETHER], survey, part, int(JpegFlag.CROP_INDEX))
        crops = [box[lo : lo + TOGETHER] for box in boxes]
        calls = [(backend, replace(now, boxes=box)) for box in crops]
        calls += [(Cropped(backend), replace(then, boxes=box)) for box in crops]
        seconds += _seconds(calls).reshape(seconds.shape)
    added = sum(map(len, indexed)) - sum(map(len, plain))
    return CropIndex(float(seconds[1].sum() / seconds[0].sum()), added / len(plain))


def _examples(
    loader: Loader, programs: Sequence[Program], rows: IntArray
) -> tuple[list[bytes], list[IntArray]]:
    """Return JPEGs, and what the programs, all of one field, need of each in some epochs."""
    name = programs[0].field
    payloads = loader.dataset.payloads(name)
    assert payloads is not None
    plans = [Planner(programs, {name: payloads}, seed=0, epoch=epoch).plan(0, rows) for epoch in range(CROPS)]
    boxes = [box for plan in plans if (box := needed_boxes(plan, programs)) is not None]
    where = zip(payloads.offsets[rows].tolist(), payloads.lengths[rows].tolist(), strict=True)
    return [loader.dataset.reader.view(offset, length).tobytes() for offset, length in where], boxes


def _encoded(jpegs: Sequence[bytes], survey: Survey, rows: IntArray, flags: int) -> Encoded:
    lengths, facts = np.array(list(map(len, jpegs)), np.int64), np.zeros(len(jpegs), JPEG_FACTS)
    facts["flags"] = flags
    stored = np.frombuffer(b"".join(jpegs), np.uint8)
    sides = survey.heights[rows], survey.widths[rows]
    return Encoded(stored, np.cumsum(lengths) - lengths, lengths, *sides, facts)


def _seconds(calls: Sequence[tuple[JpegBackend, Encoded]]) -> npt.NDArray[np.float64]:
    """Return the least CPU time of each call, which other processes hardly change."""
    _, first = calls[0]
    sizes = 3 * first.heights * first.widths
    arena, least = np.empty(int(sizes.sum()), np.uint8), np.full(len(calls), np.inf)
    for _ in range(REPEATS):
        for number, (backend, encoded) in enumerate(calls):
            begin = thread_time()
            backend.submit(encoded, arena, np.cumsum(sizes) - sizes).wait()
            least[number] = min(least[number], thread_time() - begin)
    return least

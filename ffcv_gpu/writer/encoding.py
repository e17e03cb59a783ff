"""All parts of a job in file order, encoded by this process or by several."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from multiprocessing.context import BaseContext

import numpy as np
import numpy.typing as npt

from ffcv_gpu.writer.parts import Job, Part
from ffcv_gpu.writer.progress import Progress
from ffcv_gpu.writer.ranges import Ranges
from ffcv_gpu.writer.streams import encoder_of
from ffcv_gpu.writer.workers import WorkerPool

__all__ = ["encoded"]

PartsInOrder = Iterator[tuple[Part, npt.NDArray[np.uint8]]]


@contextlib.contextmanager
def encoded(
    job: Job,
    ranges: Ranges,
    context: BaseContext,
    progress: Progress,
) -> Iterator[PartsInOrder]:
    """Encode `ranges` of a job's samples; no process outlives the context.

    Parameters
    ----------
    job : Job
    ranges : Ranges
        Divides the samples into the ranges that its workers receive; for a `StreamJob`, their numbers. With
        less than 2 workers, this process encodes.
    context : multiprocessing context
    progress : Progress

    Yields
    ------
    iterator of (Part, uint8 memory of its slot)
        The memory is valid until the next item is requested.
    """
    with contextlib.ExitStack() as stack:
        if ranges.workers > 1:
            pool = WorkerPool(job, ranges, context)
            # Before the bar is drawn, so that no half-drawn line is copied into the children.
            parts = stack.enter_context(pool).parts(progress)
        else:
            parts = _encoded_here(job, ranges, progress)
        stack.enter_context(progress)
        yield parts


def _encoded_here(job: Job, ranges: Ranges, progress: Progress) -> PartsInOrder:
    memory, done = np.empty(job.slot_bytes, np.uint8), itertools.count(ranges.start)
    encoder = encoder_of(job, lambda position: progress(next(done)))
    for part in encoder.parts(ranges.start, ranges.stop, [memory], lambda: 0):
        yield part, memory

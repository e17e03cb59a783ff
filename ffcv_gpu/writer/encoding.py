"""All parts of a job in the order of the file, encoded by this process or by several."""

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
from ffcv_gpu.writer.streams import StreamJob, encoder_of
from ffcv_gpu.writer.workers import StreamPool, WorkerPool

__all__ = ["encoded"]

PartsInOrder = Iterator[tuple[Part, npt.NDArray[np.uint8]]]


@contextlib.contextmanager
def encoded(
    job: Job,
    ranges: Ranges,
    num_workers: int,
    context: BaseContext,
    progress: Progress,
    descriptors: tuple[int, ...] = (),
) -> Iterator[PartsInOrder]:
    """Encode `ranges` of a job's samples, all of a `StreamJob`'s; the processes are gone at the end.

    Parameters
    ----------
    job : Job
    ranges : Ranges
        What a process is given at once.
    num_workers : int
        Processes; below 2 this one does it.
    context : multiprocessing context
    progress : Progress
    descriptors : tuple of int
        Open files of this process that the others must not hold open.

    Yields
    ------
    iterator of (Part, uint8 memory of its slot)
        The memory is valid until the next is asked for.
    """
    with contextlib.ExitStack() as stack:
        if num_workers > 1:
            pool = (
                StreamPool(job, context, descriptors)
                if isinstance(job, StreamJob)
                else WorkerPool(job, ranges, num_workers, context, descriptors)
            )
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

"""Which samples a worker process gets next: few enough that nobody waits, for its slots or at the end."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.writer.parts import PART_BYTES, Part

__all__ = ["Ranges"]


class Ranges:
    """Hands out positions, in order and without gaps.

    Parts go into the file in order; a worker keeps those whose turn has not come in its slots, and waits
    when all are taken. With more parts to a range than slots, workers would therefore take turns instead of
    working side by side (ranges of 100 samples: 16 workers did what 4 can for JPEGs of 110 kB, what 2 can
    for raw images of 256 pixels). So a range makes about one part. Towards the end ranges get shorter, so
    that all workers are done at the same time.

    Parameters
    ----------
    start, stop : int
    most : int
        Samples of a range.
    workers : int
    """

    def __init__(self, start: int, stop: int, most: int, workers: int) -> None:
        self.start, self.stop = start, stop
        self._next, self._most, self._workers = start, most, workers
        #: samples that make a part; one until it is known how large they are
        self._fitting = 1

    def learn(self, part: Part) -> None:
        """Take note of the size of a part's samples."""
        size = int(np.frombuffer(part.bounds, np.int64)[-1])
        self._fitting = PART_BYTES * (part.stop - part.start) // max(size, 1)

    def take(self) -> tuple[int, int] | None:
        """Return (start, stop) of the next range; None behind the last."""
        left = self.stop - self._next
        if not left:
            return None
        start = self._next
        share = left // (2 * self._workers)
        self._next += min(left, max(1, min(self._most, self._fitting, share)))
        return start, self._next

"""Consecutive light batches, planned, read and processed as if they were one.

What a batch costs in Python (150 to 400 us, most of it while holding the GIL) is then paid once for all of
them. Whatever goes wrong in a bundle is left to its batches, made one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from ffcv_gpu.loader.careful import Begun, CarefulBatch, Maker
from ffcv_gpu.loader.job import Made
from ffcv_gpu.loader.policy import Exclusions

__all__ = ["Bundle"]


class Bundle:
    """`count` batches of an epoch from `index` on: started at construction, collected by `results`.

    Parameters
    ----------
    maker : Maker
    index, count : int
    """

    def __init__(self, maker: Maker, index: int, count: int) -> None:
        self._maker, self.index, self.last = maker, index, index + count - 1
        self._count = count
        self._begun: Begun | None = None
        with suppress(Exception):  # raised again by the batch that it belongs to
            self._begun = maker.begin(index, count, Exclusions())

    def results(self) -> Iterator[Made]:
        """Wait for the batches and yield them in order; raise the first exception when its turn has come."""
        if self._good():
            assert self._begun is not None, "something was started"
            self._maker.policy.count(self._begun.replaced, self._begun.blank)
            yield from self._begun.job.parts(self._maker.course.edges(self.index, self._count))
            return
        for index in range(self.index, self.last + 1):
            yield from CarefulBatch(self._maker, index).results()

    def _good(self) -> bool:
        """Wait; return whether all samples are good and nothing was raised."""
        if self._begun is None:
            return False
        try:
            return not self._begun.job.wait()
        except Exception:  # raised again by the batch that it belongs to, unless nobody wants that any more
            if self._maker.ended():
                raise
            self._begun.job.leave()  # once its batches have passed, the pages that it reads are reused
            return False

    def cancel(self) -> None:
        """Cancel what has not started."""
        if self._begun is not None:
            self._begun.job.cancel()

    def settle(self) -> None:
        """Do nothing: bundles are made on the CPU."""

"""A DALI pipeline run an exact number of times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Runs"]


class Runs:
    """A built pipeline, run a fixed number of times with some runs ahead; at its end nothing is in flight.

    `pipeline.run()` would keep working after the last requested batch, during other contenders' turns.
    """

    def __init__(self, pipeline: Any, runs: int, ahead: int) -> None:
        if not 0 < ahead <= runs:
            raise ValueError(f"{runs} runs cannot be {ahead} ahead")
        self._pipeline, self._runs, self._ahead = pipeline, runs, ahead
        self._fresh = True

    def __iter__(self) -> Iterator[Any]:
        # The first call fills the whole queue, each later one adds a run.
        for _ in range(1 if self._fresh else self._ahead):
            self._pipeline.schedule_run()
        self._fresh = False
        for number in range(self._runs):
            yield self._pipeline.share_outputs()
            self._pipeline.release_outputs()
            if number + self._ahead < self._runs:
                self._pipeline.schedule_run()

"""DALI's pipelines run an exact number of times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Runs"]


class Runs:
    """A built pipeline, run a number of times, some ahead; at its end nothing is left running.

    `pipeline.run()` would go on working after the last batch that is asked for, in others' turns.
    """

    def __init__(self, pipeline: Any, runs: int, ahead: int) -> None:
        if not 0 < ahead <= runs:
            raise ValueError(f"{runs} runs cannot be {ahead} ahead")
        self._pipeline, self._runs, self._ahead = pipeline, runs, ahead
        self._fresh = True

    def __iter__(self) -> Iterator[Any]:
        # The very first call fills the whole queue, any later one adds a run.
        for _ in range(1 if self._fresh else self._ahead):
            self._pipeline.schedule_run()
        self._fresh = False
        for number in range(self._runs):
            yield self._pipeline.share_outputs()
            self._pipeline.release_outputs()
            if number + self._ahead < self._runs:
                self._pipeline.schedule_run()

"""A dataset that stops in the middle, as if the process ended there, and counts what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Stop", "Stopping"]


class Stop(BaseException):
    """Ends the process, as far as the writer can tell."""


class Stopping:
    """The samples ``sample(k)`` for k below `count`; raises `Stop` at sample `stop`, records requests."""

    def __init__(self, count: int, sample: Callable[[int], Any], stop: int | None = None) -> None:
        self.count, self.sample, self.stop = count, sample, stop
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> Any:
        if k == self.stop:
            raise Stop
        self.asked.append(k)
        return self.sample(k)

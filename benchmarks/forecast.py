"""Progress of a run on stderr: its expected duration, and how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

__all__ = ["Forecast", "minutes", "say"]


class Forecast:
    """The expected duration of a run, printed when it starts and before each case.

    `seconds` are those of two idle cores; from the second case on they are scaled by the time taken so far.
    """

    def __init__(self, seconds: Sequence[float]) -> None:
        self._seconds, self._done, self._begin = list(seconds), 0, time.monotonic()
        cases = f"{len(seconds)} case{'s' * (len(seconds) != 1)}"
        say(f"{cases}, about {minutes(sum(seconds))} on two idle cores")

    def step(self, name: str) -> None:
        """Announce the next case."""
        gone, meant = time.monotonic() - self._begin, sum(self._seconds[: self._done])
        left = sum(self._seconds[self._done :]) * (gone / meant if meant else 1.0)
        self._done += 1
        place = f"case {self._done} of {len(self._seconds)}"
        say(f"{place}, {minutes(gone)} gone, about {minutes(left)} left: {name}")


def minutes(seconds: float) -> str:
    """Format seconds as "3 min 05 s"."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def say(text: str) -> None:
    """Print a line at once."""
    print(text, file=sys.stderr, flush=True)

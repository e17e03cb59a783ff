"""Shows the writer's progress: a bar, a user's function, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from types import TracebackType
from typing import Any

__all__ = ["INTERVAL_SECONDS", "Progress", "ProgressWish"]

#: ``progress=``: None (a bar on a terminal or in a notebook), True, False, or ``f(done, total)``, where total
#: is None while it is unknown
ProgressWish = bool | Callable[[int, int], object] | Callable[[int, int | None], object] | None

INTERVAL_SECONDS = 0.1


class Progress:
    """Reports how many samples are done, at most ten times per second; a context manager.

    Parameters
    ----------
    wish : None, bool or callable
        `progress` of `DatasetWriter`.
    total : int or None
        Number of samples; None while it is unknown.
    first : int
        Position of the first sample.
    """

    def __init__(self, wish: ProgressWish, total: int | None, first: int = 0) -> None:
        self.total, self._first = total, first
        self._show: Any = wish if callable(wish) else None
        self._bar: Any = None
        if wish is None or wish is True:
            self._bar = _bar(total, only_if_seen=wish is None)
            self._show = self._show_bar if self._bar is not None else None
        self._next = 0.0

    @property
    def wanted(self) -> bool:
        """Whether progress is shown or reported at all."""
        return self._show is not None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._show is not None and error is None and self.total is not None:
            self._show(self.total, self.total)
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, position: int) -> None:
        """Report that the samples before `position` are encoded; cheap enough to call per sample."""
        done = position - self._first
        if self._show is None or (self.total is not None and done >= self.total):
            return
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + INTERVAL_SECONDS
        self._show(done, self.total)

    def _show_bar(self, done: int, total: int | None) -> None:
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, refresh=True)


def _bar(total: int | None, *, only_if_seen: bool) -> Any:
    """Return a rich progress bar on standard error; None if `only_if_seen` and nobody would see it."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    # In a notebook without ipywidgets, rich warns and shows empty outputs.
    in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    if only_if_seen and not (in_notebook or (console.is_terminal and not console.is_jupyter)):
        return None
    columns = (
        progress.TextColumn("writing"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    # No refresh thread: worker processes are forked from this one.
    bar = progress.Progress(*columns, console=console, auto_refresh=False)
    bar.add_task("writing", total=total)
    return bar

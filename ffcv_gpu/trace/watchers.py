"""Watchers of a clock's spans: NVTX for Nsight Systems, and torch's profiler.

Neither is a requirement: `nvtx` is an optional package, and torch is never imported here, because its
profiler can only run if something else has imported it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, NamedTuple, Protocol

__all__ = ["Mark", "NvtxRanges", "TorchRecords", "Watcher", "nvtx_watcher", "torch_records", "torch_watcher"]

DOMAIN = "ffcv_gpu"


class Mark(NamedTuple):
    """Labels of a span; `batch` is (epoch, index), or None for a span that belongs to no single batch."""

    stage: str
    items: int
    batch: tuple[int, int] | None

    def __str__(self) -> str:
        return self.stage if self.batch is None else f"{self.stage} {self.batch[0]}.{self.batch[1]}"


class Watcher(Protocol):
    """Is called for each span, in the span's thread; spans of one thread are nested."""

    def begin(self, mark: Mark) -> Any:
        """Begin a span; the return value is passed to `end` as `begun`."""

    def end(self, mark: Mark, begun: Any, start: float, seconds: float) -> None:
        """End a span that began at `start` (`time.perf_counter`) and took `seconds`."""


class NvtxRanges:
    """Opens a range for each span in an NVTX domain, as returned by `nvtx.get_domain`."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    def begin(self, mark: Mark) -> None:
        """Open a range named after the stage, with the batch's number as its payload."""
        # Not in the name: the domain never releases a name.
        batch = None if mark.batch is None else mark.batch[1]
        attributes = self._domain.get_event_attributes(message=mark.stage, payload=batch)
        self._domain.push_range(attributes)

    def end(self, mark: Mark, begun: Any, start: float, seconds: float) -> None:
        """Close the range."""
        self._domain.pop_range()


@functools.cache
def nvtx_watcher() -> tuple[Watcher, ...]:
    """Return a watcher for domain ``"ffcv_gpu"`` if the `nvtx` package is installed and a tool listens.

    Without a tool, the package returns a domain that does nothing, and calling it is skipped altogether.
    """
    try:
        nvtx = importlib.import_module("nvtx")
    except ImportError:
        return ()
    domain = nvtx.get_domain(DOMAIN)
    return () if type(domain).__name__ == "DummyDomain" else (NvtxRanges(domain),)


class TorchRecords:
    """Opens a `torch.profiler.record_function` for each span.

    By default torch's profiler records only the thread that started it: your loop's waits. To record the
    loader's threads too, pass
    ``experimental_config=torch._C._profiler._ExperimentalConfig(profile_all_threads=True)`` (torch 2.7 or
    later).
    """

    def __init__(self, profiler: Any) -> None:
        self._record = profiler.record_function

    def begin(self, mark: Mark) -> Any:
        """Open a record named ``"ffcv_gpu: stage"``, with the batch as its argument."""
        record = self._record(f"{DOMAIN}: {mark.stage}", None if mark.batch is None else str(mark))
        record.__enter__()
        return record

    def end(self, mark: Mark, begun: Any, start: float, seconds: float) -> None:
        """Close the record."""
        begun.__exit__(None, None, None)


def torch_records() -> bool:
    """Return True while torch's profiler runs in this process; called for each span (0.1 us)."""
    profiler = sys.modules.get("torch.autograd.profiler")
    return profiler is not None and getattr(profiler, "_is_profiler_enabled", False)


def torch_watcher() -> tuple[Watcher, ...]:
    """Return a watcher for torch's profiler while it runs, else none."""
    return (TorchRecords(sys.modules["torch.autograd.profiler"]),) if torch_records() else ()

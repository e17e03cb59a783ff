"""Who may watch the spans of a clock: NVTX for Nsight Systems, and torch's profiler.

Neither is imported for this unless it is there: `nvtx` is an optional package, and torch's profiler can only
run where somebody else has imported torch.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, NamedTuple, Protocol

__all__ = ["Mark", "NvtxRanges", "TorchRecords", "Watcher", "nvtx_watcher", "torch_records", "torch_watcher"]

DOMAIN = "ffcv_gpu"


class Mark(NamedTuple):
    """What a span is about; `batch` is (epoch, index), None where a span belongs to no single batch."""

    stage: str
    items: int
    batch: tuple[int, int] | None

    def __str__(self) -> str:
        return self.stage if self.batch is None else f"{self.stage} {self.batch[0]}.{self.batch[1]}"


class Watcher(Protocol):
    """Is told of spans in the thread they run in; those of one thread are nested."""

    def begin(self, mark: Mark) -> Any:
        """A span begins; what is returned comes back in `end`."""

    def end(self, mark: Mark, begun: Any, start: float, seconds: float) -> None:
        """It ended: it began at `start` (`time.perf_counter`) and took `seconds`."""


class NvtxRanges:
    """Makes a range of each span in an NVTX domain, as `nvtx.get_domain` gives it."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    def begin(self, mark: Mark) -> None:
        """Open a range named after the stage, with the batch's number as its payload."""
        # Not in the name: the domain keeps every name it has seen, for good.
        batch = None if mark.batch is None else mark.batch[1]
        attributes = self._domain.get_event_attributes(message=mark.stage, payload=batch)
        self._domain.push_range(attributes)

    def end(self, mark: Mark, begun: Any, start: float, seconds: float) -> None:
        """Close it."""
        self._domain.pop_range()


@functools.cache
def nvtx_watcher() -> tuple[Watcher, ...]:
    """Return the ranges of domain ``"ffcv_gpu"`` if the `nvtx` package is there and a tool listens to it.

    Without a tool the package hands out a domain that does nothing; we then do not even call it.
    """
    try:
        nvtx = importlib.import_module("nvtx")
    except ImportError:
        return ()
    domain = nvtx.get_domain(DOMAIN)
    return () if type(domain).__name__ == "DummyDomain" else (NvtxRanges(domain),)


class TorchRecords:
    """Makes a `torch.profiler.record_function` of each span.

    torch's profiler records the thread that started it: your loop's waits. It sees the loader's own threads
    with ``experimental_config=torch._C._profiler._ExperimentalConfig(profile_all_threads=True)``, from torch
    2.7 on.
    """

    def __init__(self, profiler: Any) -> None:
        self._record = profiler.record_function

    def begin(self, mark: Mark) -> Any:
        """Open a record named ``"ffcv_gpu: stage"``, its argument the batch."""
        record = self._record(f"{DOMAIN}: {mark.stage}", None if mark.batch is None else str(mark))
        record.__enter__()
        return record

    def end(self, mark: Mark, begun: Any, start: float, seconds: float) -> None:
        """Close it."""
        begun.__exit__(None, None, None)


def torch_records() -> bool:
    """Return whether a profiler of torch is running in this process; asked at each span: 0.1 us."""
    profiler = sys.modules.get("torch.autograd.profiler")
    return profiler is not None and getattr(profiler, "_is_profiler_enabled", False)


def torch_watcher() -> tuple[Watcher, ...]:
    """Return the watcher of torch's profiler while one is running."""
    return (TorchRecords(sys.modules["torch.autograd.profiler"]),) if torch_records() else ()

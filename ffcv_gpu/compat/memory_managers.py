"""FFCV's memory managers, for scripts that read payloads by pointer through them.

The loader does not use them: it reads through `ffcv_gpu.readers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np

from ffcv_gpu.compat.rows import StorageState, payload_reader, sorted_payloads

__all__ = ["MemoryContext", "MemoryManager", "OSCacheManager"]


class MemoryContext(AbstractContextManager["MemoryContext"], ABC):
    """The data held in memory during one epoch; a context manager."""

    @property
    @abstractmethod
    def state(self) -> Any:
        """The second argument of the function that `MemoryManager.compile_reader` returns."""

    def start_batch(self, batch: int) -> None:
        """Signal that batch number `batch` begins; does nothing by default."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: there is nothing to release."""


class MemoryManager(ABC):
    """Knows where the payloads of a file are.

    Parameters
    ----------
    reader : Reader

    Attributes
    ----------
    ptrs, sizes : int64 (n,)
        The payloads' offsets in the file, ascending, and their lengths, in bytes.
    """

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.ptrs, self.sizes = sorted_payloads(reader.alloc_table)

    @cached_property
    def ptr_to_size(self) -> Mapping[int, int]:
        """Offset of a payload -> its length in bytes; built on first use (by FFCV in the constructor)."""
        return dict(zip(self.ptrs.tolist(), self.sizes.tolist(), strict=True))

    @cached_property
    def sample_to_pages(self) -> Mapping[int, set[int]]:
        """Sample -> numbers of the pages that hold its payloads; built on first use."""
        return self._related("sample_id", "page")

    @cached_property
    def page_to_samples(self) -> Mapping[int, set[int]]:
        """Page number -> samples with payloads in the page; built on first use."""
        return self._related("page", "sample_id")

    def _related(self, key: str, value: str) -> Mapping[int, set[int]]:
        table = self.reader.alloc_table
        pages = table["ptr"] // np.uint64(self.reader.page_size)
        columns = {"sample_id": table["sample_id"].tolist(), "page": pages.tolist()}
        related: dict[int, set[int]] = {}
        for one, other in zip(columns[key], columns[value], strict=True):
            related.setdefault(one, set()).add(other)
        return related

    @abstractmethod
    def schedule_epoch(self, batches: Sequence[Any]) -> MemoryContext:
        """Return the context in which the samples of `batches` can be read."""

    @abstractmethod
    def compile_reader(self) -> Callable[..., Any]:
        """Return the compiled function ``read(pointer, state)``, which returns a payload, uint8 (n,)."""

    @property
    @abstractmethod
    def state_type(self) -> Any:
        """The numba type of `MemoryContext.state`."""


class _Mapped(MemoryContext):
    def __init__(self, state: StorageState) -> None:
        self._state = state

    @property
    def state(self) -> StorageState:
        return self._state

    def __enter__(self) -> _Mapped:
        return self


class OSCacheManager(MemoryManager):
    """Reads payloads through a memory map of the file; the state is FFCV's ``(mmap, ptrs, sizes)``.

    Parameters
    ----------
    reader : Reader
    """

    def __init__(self, reader: Any) -> None:
        super().__init__(reader)
        data = np.memmap(reader.file_name, np.uint8, mode="r")
        self._state: StorageState = (data.view(np.ndarray), self.ptrs, self.sizes)

    def schedule_epoch(self, batches: Sequence[Any]) -> MemoryContext:
        """Return a context for the whole file, whatever the batches."""
        return _Mapped(self._state)

    def compile_reader(self) -> Callable[..., Any]:
        """Return the compiled function ``read(pointer, state)``: a payload, uint8 (n,), read-only."""
        read: Callable[..., Any] = payload_reader()
        return read

    @property
    def state_type(self) -> Any:
        """The numba type of the state."""
        import numba

        typeof: Any = numba.typeof  # untyped
        return typeof(self._state)

"""FFCV's memory managers, as far as scripts read payloads by pointer through them.

The loader does not use them: it reads through `ffcv_gpu.readers`. Everything here is a view of the file.
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
    """What lies in memory during one epoch; a with block."""

    @property
    @abstractmethod
    def state(self) -> Any:
        """What the function of `MemoryManager.compile_reader` is given beside a pointer."""

    def start_batch(self, batch: int) -> None:
        """Say that batch number `batch` begins; nothing has to be done."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing has to be given back."""


class MemoryManager(ABC):
    """Knows where the payloads of a file lie.

    Parameters
    ----------
    reader : Reader

    Attributes
    ----------
    ptrs, sizes : int64 (n,)
        Where payloads begin in the file, ascending, and their lengths; bytes.
    """

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.ptrs, self.sizes = sorted_payloads(reader.alloc_table)

    @cached_property
    def ptr_to_size(self) -> Mapping[int, int]:
        """Length of the payload that begins at a place; made on first use (FFCV makes it at once)."""
        return dict(zip(self.ptrs.tolist(), self.sizes.tolist(), strict=True))

    @cached_property
    def sample_to_pages(self) -> Mapping[int, set[int]]:
        """Numbers of the pages that hold a sample's payloads; made on first use."""
        return self._related("sample_id", "page")

    @cached_property
    def page_to_samples(self) -> Mapping[int, set[int]]:
        """Samples whose payloads lie in a page; made on first use."""
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
        """Return the compiled function ``read(pointer, state)``: a payload, uint8, read-only."""

    @property
    @abstractmethod
    def state_type(self) -> Any:
        """numba's type of `MemoryContext.state`."""


class _Mapped(MemoryContext):
    def __init__(self, state: StorageState) -> None:
        self._state = state

    @property
    def state(self) -> StorageState:
        return self._state

    def __enter__(self) -> _Mapped:
        return self


class OSCacheManager(MemoryManager):
    """Payloads through a memory map of the file: the state is FFCV's ``(mmap, ptrs, sizes)``.

    Parameters
    ----------
    reader : Reader
    """

    def __init__(self, reader: Any) -> None:
        super().__init__(reader)
        data = np.memmap(reader.file_name, np.uint8, mode="r")
        self._state: StorageState = (data.view(np.ndarray), self.ptrs, self.sizes)

    def schedule_epoch(self, batches: Sequence[Any]) -> MemoryContext:
        """Return the context: the whole file, whatever the batches."""
        return _Mapped(self._state)

    def compile_reader(self) -> Callable[..., Any]:
        """Return the compiled function ``read(pointer, state)``."""
        read: Callable[..., Any] = payload_reader()
        return read

    @property
    def state_type(self) -> Any:
        """numba's type of the state."""
        import numba

        typeof: Any = numba.typeof  # untyped
        return typeof(self._state)

"""FFCV's page cache, for scripts that read payloads by pointer without mapping the whole file.

The loader does not use it: with ``os_cache=False`` it reads ahead, by direct I/O, through
`ffcv_gpu.readers.paged`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compat.memory_managers import MemoryContext, MemoryManager
from ffcv_gpu.errors import PipelineError

__all__ = ["ProcessCacheManager"]

#: in `page_to_slot`: the page is not in memory
ABSENT = -1


class ProcessCacheManager(MemoryManager):
    """Reads payloads from whole pages, which are loaded when the first batch that needs them begins.

    The state is FFCV's ``(memory, ptrs, sizes, page_to_slot)``: `memory` is uint8 (slots, page size), and
    `page_to_slot` int64 (pages,), -1 for a page that is not in memory. Each page is read once and kept
    until the last batch that needs it. (FFCV reads three batches ahead, in 12 threads.)

    Parameters
    ----------
    reader : Reader
    """

    def schedule_epoch(self, batches: Sequence[Any]) -> MemoryContext:
        """Return the context in which the samples of `batches` can be read, batch by batch, by file row."""
        return _Pages(self, batches)

    def compile_reader(self) -> Callable[..., Any]:
        """Return the compiled function ``read(pointer, state)``: a payload, uint8 (n,), valid for its batch.

        It raises ValueError if no payload begins at the pointer, or if its page is not in memory.
        """
        read: Callable[..., Any] = page_reader(int(self.reader.page_size))
        return read

    @property
    def state_type(self) -> Any:
        """The numba type of the state."""
        import numba

        typeof: Any = numba.typeof  # untyped
        return typeof((np.zeros((1, 1), np.uint8), self.ptrs, self.sizes, np.zeros(1, np.int64)))


class _Pages(MemoryContext):
    def __init__(self, manager: ProcessCacheManager, batches: Sequence[Any]) -> None:
        pages = manager.sample_to_pages
        needed = [{page for row in batch for page in pages.get(int(row), ())} for batch in batches]
        last = {page: number for number, batch in enumerate(needed) for page in batch}
        self._manager, self._next, self._descriptor = manager, 0, -1
        self._entering: list[set[int]] = []
        self._leaving: list[set[int]] = []
        held: set[int] = set()
        most = 0
        for number, batch in enumerate(needed):
            gone = {page for page in held if last[page] < number}
            self._leaving.append(gone)
            self._entering.append(batch - held)
            held = (held - gone) | batch
            most = max(most, len(held))
        self._slots = most
        self._page_to_slot = np.full(max(last, default=0) + 1, ABSENT, np.int64)
        self._free: list[int] = []
        self._memory: npt.NDArray[np.uint8] = np.zeros((0, int(manager.reader.page_size)), np.uint8)

    @property
    def state(self) -> Any:
        return self._memory, self._manager.ptrs, self._manager.sizes, self._page_to_slot

    def __enter__(self) -> _Pages:
        self._memory = np.zeros((self._slots, self._memory.shape[1]), np.uint8)
        self._free, self._next = list(range(self._slots)), 0
        self._page_to_slot[:] = ABSENT
        self._descriptor = os.open(self._manager.reader.file_name, os.O_RDONLY)
        return self

    def start_batch(self, batch: int) -> None:
        """Read the pages that batch number `batch` needs; start the batches in order, each once."""
        if self._descriptor < 0 or batch != self._next:
            raise PipelineError(
                f"start_batch({batch}): start batches in order, inside the with block; the next one is "
                f"{self._next}"
            )
        for page in self._leaving[batch]:
            self._free.append(int(self._page_to_slot[page]))
            self._page_to_slot[page] = ABSENT
        for page in sorted(self._entering[batch]):
            slot = self._free.pop()
            self._fill(self._memory[slot], page)
            self._page_to_slot[page] = slot
        self._next += 1

    def _fill(self, slot: npt.NDArray[np.uint8], page: int) -> None:
        done, size = 0, slot.size
        while done < size:  # one call reads at most 2 GiB
            count = os.preadv(self._descriptor, [slot[done:].data], page * size + done)
            if count == 0:
                slot[done:] = 0  # the file's last page may be incomplete
                return
            done += count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and release the memory."""
        os.close(self._descriptor)
        self._descriptor, self._memory = -1, self._memory[:0]
        self._page_to_slot[:] = ABSENT


@functools.cache
def page_reader(page_size: int) -> Any:
    """Return the compiled ``read(pointer, state)`` for pages of this size."""
    from numba import njit

    def read(pointer: Any, state: Any) -> Any:
        memory, pointers, sizes, page_to_slot = state
        start = np.int64(pointer)
        place = np.searchsorted(pointers, start)
        if place == len(pointers) or pointers[place] != start:
            raise ValueError("read: no payload of the file begins at this pointer")
        page = start // page_size
        if page >= len(page_to_slot) or page_to_slot[page] < 0:
            raise ValueError("read: the page of this pointer is not in memory; call start_batch() first")
        offset = start - page * page_size
        return memory[page_to_slot[page], offset : offset + sizes[place]]

    return njit(nogil=True)(read)

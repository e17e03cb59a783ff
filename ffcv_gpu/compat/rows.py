"""Support for decoders written against FFCV's protocol: row numbers as a batch, payloads by pointer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compat.state import StateSpec
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import Decoder, Source

__all__ = ["RowNumbers", "RowSpec", "StorageState", "payload_reader", "sorted_payloads", "storage_state"]

#: the file's bytes; the payloads' offsets, ascending; their lengths
StorageState = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class RowSpec(StateSpec):
    """A batch that has not been read yet: row numbers of the file."""


class RowNumbers(Decoder):
    """The decoder put before a user's own one. Output: int64 (N,), rows of the file."""

    gives_rows = True

    def first_spec(self, source: Source) -> RowSpec:
        """Return the spec of row numbers."""
        return RowSpec((), "int64")


def storage_state(source: Source) -> StorageState:
    """Return what a decoder passes to `memory_read`: FFCV's ``(mmap, ptrs, sizes)`` of all payloads."""
    if source.data is None:
        raise PipelineError(
            f"field {source.name!r}: a decoder that reads the file by itself works with one file; merge_files"
            " joins several"
        )
    if "storage" not in source.memo:
        data = np.asarray(source.data).view(np.ndarray)
        source.memo["storage"] = (data, *sorted_payloads(source.allocations))
    state: StorageState = source.memo["storage"]
    return state


def sorted_payloads(allocations: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the offsets of an allocation table's payloads, ascending, and their lengths; int64 (n,)."""
    pointers, sizes = (allocations[name].astype(np.int64) for name in ("ptr", "size"))
    order = np.lexsort((-sizes, pointers))  # an empty payload may have the offset of the next one
    return pointers[order], sizes[order]


@functools.cache
def payload_reader() -> Any:
    """Return FFCV's compiled ``memory_read(pointer, storage_state)``: a payload, uint8 (n,), read-only."""
    from numba import njit

    def memory_read(pointer: Any, state: Any) -> Any:
        data, pointers, sizes = state
        start = np.int64(pointer)
        place = np.searchsorted(pointers, start)
        if place == len(pointers) or pointers[place] != start:
            raise ValueError("memory_read: no payload of the file begins at this pointer")
        return data[start : start + sizes[place]]

    return njit(nogil=True)(memory_read)

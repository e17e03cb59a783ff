"""AllocationQuery: the memory an operation requests, and how it is allocated."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device.buffer_pool import BufferPool
from ffcv_gpu.errors import PipelineError

__all__ = ["Allocation", "AllocationQuery", "allocate", "allocate_query", "gpu_there"]


@dataclass(frozen=True)
class AllocationQuery:
    """Requests memory of shape (N, \\*shape) for each batch.

    Parameters
    ----------
    shape : tuple of int
        Shape per sample.
    dtype : numpy or torch dtype
        With a numpy dtype, the function receives an array; with a torch dtype, a tensor.
    device : device, optional
        Device of a tensor; None: the CPU.
    """

    shape: tuple[int, ...]
    dtype: Any
    device: Any = None


#: what `declare_state_and_memory` may return as its second value
Allocation = AllocationQuery | Sequence[AllocationQuery] | None


def allocate(query: Any, count: int, pool: BufferPool) -> Any:
    """Return zeros of shape (count, \\*shape); a tuple for several queries; None for none.

    Arrays are memory of `pool` that nothing refers to, so that a batch that is kept does not change. It is
    zeroed, so that what an operation leaves unwritten does not depend on earlier batches. (FFCV reuses a few
    slots in turn.)

    Raises
    ------
    PipelineError
        If `query` is neither an `AllocationQuery` nor a sequence of them.
    """
    if query is None:
        return None
    if isinstance(query, AllocationQuery):
        shape = (count, *query.shape)
        if not str(query.dtype).startswith("torch."):
            return zeros(shape, np.dtype(query.dtype), pool)
        import torch

        return torch.zeros(shape, dtype=query.dtype, device=query.device)
    if isinstance(query, Sequence) and all(isinstance(one, AllocationQuery) for one in query):
        return tuple(allocate(one, count, pool) for one in query)
    raise PipelineError(f"request memory by AllocationQuery(shape, dtype) or a tuple of them, not {query!r}")


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any], pool: BufferPool) -> npt.NDArray[Any]:
    """Return zeros in memory of `pool`."""
    if dtype.hasobject:
        return np.zeros(shape, dtype)
    memory = pool.take(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    memory.fill(0)
    return memory.view(dtype).reshape(shape)


def allocate_query(memory_allocation: AllocationQuery, batch_size: int, batches_ahead: int) -> Any:
    """Return memory for several batches, as in FFCV; our loader does not use it (see `allocate`).

    Parameters
    ----------
    memory_allocation : AllocationQuery
    batch_size : int
        Samples per batch.
    batches_ahead : int
        Number of batches.

    Returns
    -------
    ndarray (batches_ahead, batch_size, \\*shape), or a list of `batches_ahead` tensors (batch_size, \\*shape)
        An array for a numpy dtype, tensors for a torch dtype; not initialised. CPU memory is pinned if
        torch sees a GPU.
    """
    shape, dtype = (batch_size, *memory_allocation.shape), memory_allocation.dtype
    if str(dtype).startswith("torch."):
        return [_tensor(shape, dtype, memory_allocation.device) for _ in range(batches_ahead)]
    size = batches_ahead * int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not gpu_there():
        return np.empty((batches_ahead, *shape), dtype)
    import torch

    return _tensor((size,), torch.uint8, None).numpy().view(dtype).reshape(batches_ahead, *shape)


def gpu_there() -> bool:
    """Return True if torch is installed and sees a GPU: then copies from pinned memory are asynchronous."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _tensor(shape: tuple[int, ...], dtype: Any, device: Any) -> Any:
    import torch

    on_cpu = device is None or torch.device(device).type == "cpu"
    return torch.empty(shape, dtype=dtype, device=device, pin_memory=on_cpu and gpu_there())

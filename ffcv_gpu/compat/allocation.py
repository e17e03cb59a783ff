"""AllocationQuery: the memory an operation asks for, and how it gets it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError

__all__ = ["Allocation", "AllocationQuery", "allocate", "allocate_query", "gpu_there"]


@dataclass(frozen=True)
class AllocationQuery:
    """Ask for memory for each batch, (N, \\*shape).

    Parameters
    ----------
    shape : tuple of int
        Of one sample.
    dtype : numpy or torch dtype
        numpy: the function is given an array; torch: a tensor.
    device : device, optional
        Of a tensor; None: the CPU.
    """

    shape: tuple[int, ...]
    dtype: Any
    device: Any = None


#: what `declare_state_and_memory` may return as its second value
Allocation = AllocationQuery | Sequence[AllocationQuery] | None


def allocate(query: Any, count: int) -> Any:
    """Return new memory of zeros for `count` samples: (count, \\*shape); a tuple for several, or None.

    It belongs to the batch alone, so that a batch which is kept stays what it is, and begins as zeros, so
    that what an operation leaves out does not depend on the batches before. (FFCV uses a few slots in turn.)

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
            return np.zeros(shape, query.dtype)
        import torch

        return torch.zeros(shape, dtype=query.dtype, device=query.device)
    if isinstance(query, Sequence) and all(isinstance(one, AllocationQuery) for one in query):
        return tuple(allocate(one, count) for one in query)
    raise PipelineError(f"memory is asked for by AllocationQuery(shape, dtype) or a tuple of them: {query!r}")


def allocate_query(memory_allocation: AllocationQuery, batch_size: int, batches_ahead: int) -> Any:
    """Return memory for several batches, as FFCV's loader asks for it; this one's does not (see `allocate`).

    Parameters
    ----------
    memory_allocation : AllocationQuery
    batch_size : int
        Samples of a batch.
    batches_ahead : int
        Batches.

    Returns
    -------
    ndarray (batches_ahead, batch_size, \\*shape), or a list of `batches_ahead` tensors (batch_size, \\*shape)
        By the kind of the query's dtype; not initialised. On the CPU it is pinned where a GPU is there.
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
    """True if torch is installed and sees a GPU: then a copy out of pinned memory need not wait."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _tensor(shape: tuple[int, ...], dtype: Any, device: Any) -> Any:
    import torch

    on_cpu = device is None or torch.device(device).type == "cpu"
    return torch.empty(shape, dtype=dtype, device=device, pin_memory=on_cpu and gpu_there())

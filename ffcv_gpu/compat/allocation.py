"""AllocationQuery: the memory an operation asks for, and how it gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError

__all__ = ["Allocation", "AllocationQuery", "allocate"]


@dataclass(frozen=True)
class AllocationQuery:
    """Ask for memory for each batch.

    Attributes
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

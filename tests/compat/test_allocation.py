"""allocate_query: FFCV's shapes and kinds of memory; and the memory of operations."""

import numpy as np
import pytest
import torch

from ffcv_gpu.compat.allocation import allocate
from ffcv_gpu.device.buffer_pool import BufferPool
from ffcv_gpu.pipeline.allocation_query import AllocationQuery, allocate_query


@pytest.mark.parametrize("dtype", [np.dtype("u1"), np.dtype("<f4"), np.int64])
def test_numpy_memory_is_one_array_for_all_batches(dtype):
    memory = allocate_query(AllocationQuery((5, 7), dtype), 4, 3)
    assert isinstance(memory, np.ndarray) and memory.shape == (3, 4, 5, 7) and memory.dtype == dtype
    memory[:] = 1
    assert allocate_query(AllocationQuery((), dtype), batch_size=4, batches_ahead=3).shape == (3, 4)


def test_pinned_memory_has_the_shape_and_type_asked_for(monkeypatch):
    """As on a machine with a GPU, where torch hands out pinned bytes."""
    asked = []

    def empty(shape, dtype, device, pin_memory):
        asked.append((device, pin_memory))
        return torch.zeros(shape, dtype=dtype)

    monkeypatch.setattr("ffcv_gpu.compat.allocation.gpu_there", lambda: True)
    monkeypatch.setattr(torch, "empty", empty)
    memory = allocate_query(AllocationQuery((5, 7), np.dtype("<f4")), 4, 3)
    assert memory.shape == (3, 4, 5, 7) and memory.dtype == np.float32
    allocate_query(AllocationQuery((2,), torch.float16, torch.device("cuda:0")), 4, 1)
    assert asked == [(None, True), (torch.device("cuda:0"), False)]


def test_a_torch_type_gives_a_tensor_for_each_batch():
    memory = allocate_query(AllocationQuery((5, 7), torch.float16, torch.device("cpu")), 4, 3)
    assert [tuple(tensor.shape) for tensor in memory] == [(4, 5, 7)] * 3
    assert all(tensor.dtype == torch.float16 for tensor in memory)


def test_memory_that_nothing_refers_to_is_used_again_and_zeroed():
    pool, query = BufferPool(keep=2), AllocationQuery((3, 2), np.dtype("f4"))
    first = allocate(query, 5, pool)
    assert first.shape == (5, 3, 2) and first.dtype == "f4" and not first.any()
    first[:], address = 7, first.ctypes.data
    kept = first[1:2]
    del first
    other = allocate(query, 5, pool)
    assert other.ctypes.data != address and (kept == 7).all()
    del kept
    again = allocate(query, 5, pool)
    assert again.ctypes.data == address and not again.any()

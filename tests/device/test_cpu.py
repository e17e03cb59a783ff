"""The pool of output buffers, and how a batch is split into lanes."""

import gc
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffcv_gpu.device import CpuDevice
from ffcv_gpu.device.cpu import LANE_BYTES, LANES_PER_WORKER, BufferPool
from ffcv_gpu.steps import ValueSpec


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "keep",
    [
        lambda a: a[3:5],
        lambda a: a.reshape(2, -1).view(np.int16)[:, ::2],
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a).view(4, -1)[1:].permute(1, 0),
        lambda a: memoryview(a),
    ],
)
def test_a_buffer_comes_back_when_its_last_view_is_gone(keep):
    pool = BufferPool(keep=4)
    first = pool.take(1000)
    where, view = address(first), keep(first)
    del first
    gc.collect()
    assert address(pool.take(1000)) != where, "a view was still alive"
    del view
    gc.collect()
    assert where in {address(array) for array in [pool.take(1000), pool.take(1000)]}


def test_the_garbage_collector_may_come_at_any_time():
    """A batch in a cycle (the traceback of an exception keeps one) can be dropped inside the pool itself."""
    pool = BufferPool(keep=4)

    class Free(dict):
        def setdefault(self, size, default):
            gc.collect()
            return super().setdefault(size, default)

    pool._free = Free()
    cycle = [pool.take(100)]
    cycle.append(cycle)
    array = pool.take(100)
    del cycle
    thread = threading.Thread(target=exec, args=("del held[:]", {"held": [array]}), daemon=True)
    del array
    gc.disable()
    try:
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert not thread.is_alive()
    assert pool.free_bytes() == 200


def test_free_buffers_are_bounded_and_can_be_given_back():
    pool = BufferPool(keep=2)
    arrays = [pool.take(100) for _ in range(5)]
    del arrays
    assert pool.free_bytes() == 200
    pool.trim()
    assert pool.free_bytes() == 0


def test_kept_buffers_do_not_come_back():
    pool = BufferPool(keep=8)
    kept = [pool.take(64) for _ in range(50)]
    for number, array in enumerate(kept):
        array[:] = number
    assert len({address(array) for array in kept}) == 50
    assert all((array == number).all() for number, array in enumerate(kept))


@given(st.lists(st.integers(1, 3 * LANE_BYTES), min_size=1, max_size=200), st.integers(1, 16))
def test_lanes_cover_the_batch_once_in_order(sizes, workers):
    weights = np.array(sizes, np.int64)
    lanes = CpuDevice(keep=1).lanes(weights, workers)
    assert [lo for lo, _ in lanes] == [0, *(hi for _, hi in lanes[:-1])] and lanes[-1][1] == len(sizes)
    assert all(lo < hi for lo, hi in lanes)
    largest = max(LANE_BYTES, weights.sum() / (LANES_PER_WORKER * workers)) + weights.max()
    assert all(weights[lo:hi].sum() <= largest + weights.max() for lo, hi in lanes)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32", "int64"])
def test_finish_gives_tensors_of_the_real_type_without_a_copy(dtype):
    bits = {
        "uint8": np.uint8,
        "float16": np.uint16,
        "bfloat16": np.uint16,
        "float32": np.uint32,
        "int64": np.int64,
    }
    device = CpuDevice(keep=1)
    memory = device.allocate((2, 4, 5, 3), np.dtype(bits[dtype]))
    values = torch.arange(120).reshape(2, 4, 5, 3).to(getattr(torch, dtype))
    memory.view(np.uint8)[:] = values.contiguous().view(torch.uint8).numpy()
    spec = ValueSpec((3, 4, 5), dtype, "tensor", layout="CHW", channels_last=True)
    tensor = device.finish(memory, spec)
    assert torch.equal(tensor, values.permute(0, 3, 1, 2)) and tensor.data_ptr() == address(memory)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    if dtype != "bfloat16":
        array = device.finish(memory, ValueSpec((4, 5, 3), dtype, "numpy", layout="HWC"))
        assert array.dtype == dtype and np.array_equal(array, values.numpy())

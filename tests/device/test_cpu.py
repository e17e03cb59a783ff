"""How a batch is split into lanes, and what is handed out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffcv_gpu.device import CpuDevice
from ffcv_gpu.device.cpu import LANE_BYTES, LANES_PER_WORKER, LEAST_LANE_BYTES, lane_count, least_reading
from ffcv_gpu.steps import ValueSpec


def address(array):
    return array.__array_interface__["data"][0]


@given(
    st.lists(st.integers(1, 3 * LANE_BYTES), min_size=1, max_size=200),
    st.integers(1, 64),
    st.sampled_from([LEAST_LANE_BYTES, least_reading(2), least_reading(16)]),
)
def test_lanes_cover_the_batch_once_in_order(sizes, workers, least):
    weights = np.array(sizes, np.int64)
    lanes = CpuDevice(keep=1).lanes(weights, workers, least)
    assert [lo for lo, _ in lanes] == [0, *(hi for _, hi in lanes[:-1])] and lanes[-1][1] == len(sizes)
    assert all(lo < hi for lo, hi in lanes)
    most = max(LANE_BYTES, least)
    assert len(lanes) <= max(-(-weights.sum() // most), weights.sum() // least, 1)
    largest = max(most, weights.sum() / (LANES_PER_WORKER * workers)) + weights.max()
    assert all(weights[lo:hi].sum() <= largest + weights.max() for lo, hi in lanes)


def test_small_batches_and_those_of_one_worker_are_not_split():
    device = CpuDevice(keep=1)
    assert device.lanes(np.full(8, LEAST_LANE_BYTES // 8), 16, LEAST_LANE_BYTES) == [(0, 8)]
    assert device.lanes(np.full(8, LEAST_LANE_BYTES), 1, LEAST_LANE_BYTES) == [(0, 8)]
    assert len(device.lanes(np.full(8, LEAST_LANE_BYTES), 2, LEAST_LANE_BYTES)) == 8


def test_lanes_that_read_are_the_larger_the_more_workers_want_to_run_python():
    batch = 256 * 3 * 500 * 375  # photographs
    lanes = {workers: lane_count(batch, workers, least_reading(workers)) for workers in (1, 2, 4, 8, 16, 64)}
    assert lanes == {1: 35, 2: 35, 4: 18, 8: 9, 16: 9, 64: 9}


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

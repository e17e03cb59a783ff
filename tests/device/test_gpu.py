"""Slots, limits and marks of a GPU device, on a fake; and what is said where there is no GPU."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import numpy as np
import pytest

from ffcv_gpu.device import default_gpu, discovery, require_device
from ffcv_gpu.device.gpu import DEFAULT_BYTES, GpuDevice
from ffcv_gpu.errors import BackendUnavailable, OutOfGpuMemory
from ffcv_gpu.transforms import ToDevice
from tests.fake_gpu import FakeGpu


def never():
    return False


@pytest.fixture
def device():
    return FakeGpu().device


def test_slots_are_bounded_and_come_back(device):
    slots = [device.borrow(never) for _ in range(device.slots)]
    assert len(set(map(id, slots))) == 3
    assert device.borrow(never, wait=False) is None
    device.give_back(slots[1])
    assert device.borrow(never) is slots[1]


def test_who_waits_for_a_slot_can_give_up(device):
    slots = [device.borrow(never) for _ in range(device.slots)]
    closed = threading.Event()
    found = []
    thread = threading.Thread(target=lambda: found.append(device.borrow(closed.is_set)))
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    closed.set()
    thread.join(30)
    assert found == [None]
    device.give_back(slots[0])
    assert device.borrow(never) is slots[0]


def test_a_slot_is_lent_when_its_last_reader_is_done(device):
    slot = device.borrow(never)
    done = []
    device.stream.submit(lambda: done.append(True))
    device.give_back(slot)
    assert not done
    while device.borrow(never) is not slot:
        pass
    assert done


def test_the_memory_of_a_lost_slot_is_given_up_when_the_gpu_is_done(device, monkeypatch):
    slot = device.borrow(never)
    slot.grow(100, 100)
    slot.pinned[:] = 7
    arena = slot.arena
    device.upload(slot.pinned, arena, 0, device.copies)
    device.copies.record(slot.uploaded)

    def fails(event):
        raise RuntimeError("broken")

    monkeypatch.setattr(device.stream, "wait", fails)
    with pytest.raises(RuntimeError, match="broken"):
        device.give_back(slot)
    del slot
    gc.collect()
    device.copies.synchronize()
    assert (arena.memory[:100] == 7).all()


def test_buffers_only_grow(device):
    slot = device.borrow(never)
    slot.grow(1000, 2000)
    pinned, arena = slot.pinned, slot.arena
    slot.grow(900, 2100)
    assert slot.pinned is pinned and slot.arena is arena
    slot.grow(5000, 5000)
    assert slot.pinned.size >= 5000 and slot.arena.size_bytes >= 5000
    assert slot.arena.used is arena.used
    assert slot.holds(5000, 5000) and not slot.holds(slot.pinned.size + 1, 0)
    assert not slot.holds(0, slot.arena.size_bytes + 1)


def test_room_is_a_share_of_the_size(device):
    slot = device.borrow(never)
    slot.grow(1000, 2000, None, 0.5)
    assert slot.pinned.size == 1500 and slot.arena.size_bytes == 3000


def test_room_for_later_batches_stays_within_the_limit(device):
    slot = device.borrow(never)
    slot.grow(1000, 900, 1100)
    assert slot.pinned.size == 1100 and slot.arena.size_bytes == 1100
    slot.grow(1200, 1100, 1100)  # what is needed is there in any case
    assert slot.pinned.size == 1200 and slot.arena.size_bytes == 1100


def test_limits():
    fake = FakeGpu(total=1 << 30)
    assert fake.device.limit_bytes(None) == (1 << 28) // 3
    assert fake.device.limit_bytes(0.6) == 200_000_000
    assert FakeGpu(total=80 << 30).device.limit_bytes(None) == DEFAULT_BYTES // 3


def test_no_room_says_how_much_and_what_to_do():
    device = FakeGpu(total=10_000).device
    device.make_current()
    with pytest.raises(OutOfGpuMemory, match=r"cuda:0: not enough memory for 0.0 MB of pinned memory: lower"):
        device.pinned(20_000)
    with pytest.raises(MemoryError):
        device.device_bytes(20_000)


def test_marks_are_written_and_compared(device):
    device.make_current()
    arena = device.device_bytes(500)
    starts, marks = np.array([3, 100, 484]), np.arange(48, dtype=np.uint8).reshape(3, 16)
    device.stamp(arena, starts, marks, device.stream)
    for start, mark in zip(starts, marks, strict=True):
        assert np.array_equal(arena.memory[start : start + 16], mark)
    arena.memory[107] += 1
    assert device.unchanged(arena, starts, marks, device.stream).tolist() == [True, False, True]


def test_marks_that_cannot_be_waited_for_keep_their_memory(device, monkeypatch):
    device.make_current()
    arena, marks = device.device_bytes(500), np.arange(16, dtype=np.uint8).reshape(1, 16)

    def fails(event):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(device.copies, "record", fails)
        with pytest.raises(RuntimeError, match="broken"):
            device.stamp(arena, np.array([100]), marks, device.copies)
    gc.collect()
    device.copies.synchronize()
    assert np.array_equal(arena.memory[100:116], marks[0])


def test_work_is_finished_in_order_in_one_thread(device):
    seen = []
    futures = [device.finish_later(lambda i=i: seen.append((i, threading.get_ident()))) for i in range(9)]
    for future in futures:
        future.result()
    assert [i for i, _ in seen] == list(range(9)) and len({thread for _, thread in seen}) == 1


def test_a_device_whose_threads_cannot_be_had_is_not_made(monkeypatch):
    """Not when the first batch is submitted: the pool keeps what it could not start a thread for, and would
    submit it later, from a slot that has another batch by then."""
    real = threading.Thread.start

    def start(thread):
        if thread.name.startswith("ffcv_gpu-cuda"):
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            FakeGpu()
    device = FakeGpu().device
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert device.submit_later(int).result(30) == device.finish_later(int).result(30) == 0


def test_a_dropped_device_leaves_no_thread():
    device = FakeGpu().device
    thread = device.finish_later(threading.current_thread).result()
    gone = weakref.ref(device)
    del device
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not thread.is_alive()


# ---- which GPU


@pytest.mark.parametrize(("rank", "name"), [(None, "cuda:0"), ("0", "cuda:0"), ("3", "cuda:3")])
def test_the_gpu_of_this_process_is_its_local_rank_s(monkeypatch, rank, name):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(discovery, "_count_with_torch", lambda name: 8)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert default_gpu() == name


@pytest.mark.parametrize(("seen", "name"), [(1, "cuda:0"), (4, "cuda:1"), (8, "cuda:5")])
def test_a_local_rank_beyond_the_visible_gpus_counts_them_over_again(monkeypatch, seen, name):
    """As under MIG, or where a launcher sets CUDA_VISIBLE_DEVICES for each process."""
    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(discovery, "_count_with_torch", lambda name: seen)
    assert default_gpu() == name
    require_device(default_gpu())


class Cuda:
    """What `discovery` asks torch.cuda."""

    def __init__(self, current, forked=False):
        self._current, self._forked = current, forked

    def is_initialized(self):
        return self._current is not None

    def current_device(self):
        assert self._current is not None, "this would initialise CUDA"
        return self._current

    def _is_in_bad_fork(self):
        return self._forked


@pytest.mark.parametrize(
    ("current", "rank", "name"),
    [(None, None, "cuda:0"), (2, None, "cuda:2"), (2, "1", "cuda:2"), (0, "1", "cuda:1")],
)
def test_torchs_current_device_is_this_processs_gpu(monkeypatch, current, rank, name):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(discovery, "_torch_cuda", lambda: Cuda(current))
    monkeypatch.setattr(discovery, "_count_with_torch", lambda name: 4)
    assert default_gpu() == name


@pytest.mark.parametrize("device", ["cuda", "torch.device"])
def test_cuda_without_a_number_is_torchs_current_device(monkeypatch, device):
    if device == "torch.device":
        device = pytest.importorskip("torch").device("cuda")
    assert ToDevice(device).target == "cuda:0"
    monkeypatch.setattr(discovery, "_torch_cuda", lambda: Cuda(3))
    assert ToDevice(device).target == "cuda:3"
    assert ToDevice("cuda:1").target == "cuda:1" and ToDevice(0).target == "cuda:0"


def test_a_forked_child_of_a_process_in_which_torch_used_cuda_is_told_so(monkeypatch):
    """torch finds no GPU in it, and cannot say why."""
    monkeypatch.setattr(discovery, "_torch_cuda", lambda: Cuda(None, forked=True))
    require_device("cpu")
    with pytest.raises(BackendUnavailable, match="CUDA does not survive a fork; start it by 'spawn'"):
        require_device("cuda:0")


def without(monkeypatch, *names):
    """Let modules look as if they were not installed."""
    real = discovery.find_spec
    monkeypatch.setattr(discovery, "find_spec", lambda name: None if name in names else real(name))


def test_the_cpu_is_always_there():
    require_device("cpu")


def test_a_torch_without_cuda_is_named():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendUnavailable, match=r"cuda:1.*(without CUDA|no usable GPU).*device=\"cpu\""):
        require_device("cuda:1")


def test_without_torch_and_cupy_the_message_says_what_to_install(monkeypatch):
    without(monkeypatch, "torch", "cupy")
    with pytest.raises(BackendUnavailable, match=r"PyTorch or CuPy.*neither.*pip install 'ffcv-gpu\[cuda1"):
        require_device("cuda:0")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(discovery, "_count_with_torch", lambda name: 2)
    require_device("cuda:1")
    with pytest.raises(BackendUnavailable, match=r"'cuda:2' does not exist: .* 2 GPU\(s\); use 0 to 1"):
        require_device("cuda:2")


def test_without_numba_cuda_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(discovery, "_count_with_torch", lambda name: 1)
    without(monkeypatch, "numba_cuda")
    with pytest.raises(BackendUnavailable, match=r"needs numba-cuda.*pip install 'ffcv-gpu\["):
        require_device("cuda:0")


def test_a_forked_child_of_a_process_with_a_gpu_is_told_so(monkeypatch):
    monkeypatch.setattr(discovery, "_count_with_torch", lambda name: 1)
    monkeypatch.setattr(discovery, "_users", set())
    monkeypatch.setattr(discovery, "_make", lambda index: FakeGpu().device)
    discovery.gpu_device("cuda:3")
    require_device("cuda:0")
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    require_device("cpu")
    with pytest.raises(BackendUnavailable, match="CUDA does not survive a fork; start it by 'spawn'"):
        require_device("cuda:0")


def test_one_device_for_all_who_ask(monkeypatch):
    made = []

    def make(index):
        made.append(index)
        return GpuDevice(FakeGpu().owner, FakeGpu().launches)

    monkeypatch.setattr(discovery, "_make", make)
    one = discovery.gpu_device("cuda:5")
    assert discovery.gpu_device("cuda:5") is one and made == [5]
    del one
    gc.collect()
    again = discovery.gpu_device("cuda:5")
    assert made == [5, 5] and again.slots == 3

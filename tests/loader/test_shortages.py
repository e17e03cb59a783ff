"""Memory or threads that cannot be had, and a GPU that fails: errors, after which the loader goes on."""

from __future__ import annotations

import gc
import itertools
import re
import threading
from contextlib import suppress
from pkgutil import resolve_name

import pytest

from ffcv_gpu.errors import NvjpegError, OutOfGpuMemory
from ffcv_gpu.loader.gpu_fill import PartFiller
from tests.fake_streams import FakeEvent
from tests.small_file import (
    epoch,
    loader_threads,
    run_program,
    same,
    small_loader,
)

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("no_thread_is_left")]


@pytest.mark.parametrize("where", ["CpuDevice.allocate", "Slot.arena", "Slot.scratch"])
def test_memory_that_cannot_be_had_is_an_error_and_the_loader_goes_on(small, good, monkeypatch, where):
    from ffcv_gpu.device import CpuDevice
    from ffcv_gpu.staging import Slot

    owner = {"CpuDevice": CpuDevice, "Slot": Slot}[where.split(".")[0]]
    made = small_loader(small)
    with monkeypatch.context() as patch:

        def none(*_):
            raise MemoryError("no more")

        patch.setattr(owner, where.split(".")[1], none)
        with pytest.raises(MemoryError, match="no more"):
            epoch(made)
        assert not loader_threads()
    same(epoch(made), good)


@pytest.mark.parametrize("what", ["pinned", "device_bytes", "empty"])
def test_memory_that_a_gpu_does_not_have_is_an_error_and_the_loader_goes_on(gpu, small, good, what):
    fake = gpu()
    made, real = small_loader(small, {"device": "cuda:0"}, 6), getattr(fake.owner, what)

    def none(*_):
        raise MemoryError("no more")

    setattr(fake.owner, what, none)
    with pytest.raises(
        OutOfGpuMemory, match=r"cuda:0: not enough memory for .*: lower gpu_memory_gb=.*no more"
    ):
        epoch(made)
    assert not loader_threads()
    setattr(fake.owner, what, real)
    same(epoch(made), good)
    assert fake.device._made == len(fake.device._free) <= fake.device.slots


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_threads_that_cannot_be_had_are_an_error_and_the_loader_goes_on(
    device, small, good, monkeypatch, allowed
):
    monkeypatch.setattr("ffcv_gpu.loader.weights.HERE_BYTES", 0)  # small batches need no workers otherwise
    made, real, started = small_loader(small, device), threading.Thread.start, []
    epoch(made)  # a GPU's own thread is there
    with monkeypatch.context() as patch:

        def start(thread):
            started.append(thread)
            if len(started) > allowed:
                raise RuntimeError("can't start new thread")
            real(thread)

        patch.setattr(threading.Thread, "start", start)
        if allowed < 2:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                epoch(made)
        gc.collect()
    same(epoch(made), good)


def test_a_slot_comes_back_when_no_thread_will_write_to_it_any_more(gpu, small, good, monkeypatch):
    """A pool that cannot start a thread raises, and yet keeps the work for the threads that it has."""
    fake = gpu()
    made = small_loader(small, {"device": "cuda:0"}, 8)
    real, real_fill = threading.Thread.start, PartFiller.fill
    refused, late = threading.Event(), []

    def start(thread):
        if thread.name == "ffcv_gpu-worker_1":
            refused.set()
            raise RuntimeError("can't start new thread")
        real(thread)

    def fill(filler, lo, hi):
        assert refused.wait(30)
        late.append(any(slot.pinned is filler._pinned for slot in fake.device._free))
        return real_fill(filler, lo, hi)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        patch.setattr(PartFiller, "fill", fill)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            epoch(made)
    assert late and not any(late)
    same(epoch(made), good)


def test_a_process_without_memory_ends_with_an_error(small):
    result = run_program(
        f"""
        import resource
        from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder
        image = [CenterCropRGBImageDecoder((8000, 8000), 1.0)]
        pipelines = {{"label": [IntDecoder()], "image": image, "vector": None}}
        made = Loader({str(small)!r}, 20, num_workers=2, pipelines=pipelines)
        next(iter(Loader({str(small)!r}, 2, pipelines={{**pipelines, "image": IMAGE}})))
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), size + (1 << 30)))
        try:
            list(made)
        except MemoryError:
            print("MemoryError")
        """
    )
    assert result.returncode == 0 and result.stdout.strip() == "MemoryError", result.stderr


def test_a_decoder_that_fails_is_an_error_and_the_slots_come_back(gpu, small, good):
    fake = gpu()
    made = small_loader(small, {"device": "cuda:0"})
    (backend,) = fake.device.backends.values()
    real, calls = backend.start, []

    def start(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise NvjpegError("nvjpegDecodeBatched: broken")
        return real(*arguments)

    backend.start = start
    with pytest.raises(NvjpegError, match="broken") as caught:
        epoch(made)
    # The first three batches are read at the same time: any may be the second one to be submitted.
    assert re.search("rows 0 to 1 of batch [012] of epoch 0", " ".join(caught.value.__notes__))
    same(epoch(made), good)
    assert fake.device._made == len(fake.device._free) <= fake.device.slots


def test_a_gpu_that_is_lost_is_an_error_for_every_loader_on_it(gpu, small):
    """After a sticky error every call fails: also those that give a slot back, for which others wait."""
    fake = gpu(slots=1)
    one, two = (small_loader(small, {"device": "cuda:0"}) for _ in range(2))
    epoch(one)
    other = iter(two)
    next(other)
    real = fake.device.stream.record

    def lost(event):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    fake.device.stream.record = lost
    for running in (iter(one), other):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            list(running)
    fake.device.stream.record = real
    gc.collect()
    assert sum(1 for _ in one) == len(one)


STEPS = [
    "ffcv_gpu.loader.gpu_batch.lay_out",
    "ffcv_gpu.loader.gpu_fill.PartFiller.write_blocks",
    "ffcv_gpu.loader.gpu_fill.PartFiller.pieces",
    "ffcv_gpu.loader.gpu_fill.PartFiller.fill",
    "ffcv_gpu.loader.gpu_fill.PartFiller.encoded",
    "ffcv_gpu.jpeg.nvjpeg.backend.NvjpegBackend.prepare",
    "ffcv_gpu.jpeg.nvjpeg.slot.Slot.batch_decoder",
    "ffcv_gpu.jpeg.nvjpeg.batch.BatchDecoder.decode",
    "ffcv_gpu.jpeg.nvjpeg.job.Job._learn",
    "ffcv_gpu.device.gpu.GpuDevice.submit_later",
    "ffcv_gpu.device.gpu.GpuDevice.finish_later",
    "ffcv_gpu.device.gpu.GpuDevice.upload",
    "ffcv_gpu.device.gpu.GpuSlot.holds",
    "tests.fake_gpu.FakeLaunches.compose",
    "tests.fake_gpu.FakeOwner.copy",
    "tests.fake_gpu.FakeOwner.working_on",
]


def test_whatever_fails_on_the_way_ends_the_epoch_and_nothing_else(gpu, small, good, monkeypatch):
    fake = gpu()
    made = small_loader(small, {"device": "cuda:0"})
    for step in STEPS:
        real, calls = resolve_name(step), []

        def fails_once(*arguments, real=real, calls=calls, **more):
            calls.append(arguments)
            if len(calls) == 3:
                raise RuntimeError("broken")
            return real(*arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(step, fails_once)
            with pytest.raises(RuntimeError, match="broken"):
                epoch(made)
        assert not loader_threads(), step
        assert fake.device._made == len(fake.device._free), step
    same(epoch(made), good)


def test_a_wait_that_the_gpu_refuses_for_a_while_leaves_nothing_in_flight(gpu, small, good, monkeypatch):
    """As while a CUDA graph is captured. Decoding goes on meanwhile, from and to the memory of the slot."""
    fake = gpu()
    made = small_loader(small, {"device": "cuda:0"}, 6)
    epoch(made)
    real, refusing = FakeEvent.synchronize, []

    def synchronize(event):
        if refusing and threading.current_thread().name == refusing[0]:
            raise RuntimeError("operation not permitted when stream is capturing")
        real(event)

    monkeypatch.setattr(FakeEvent, "synchronize", synchronize)
    refusing.append(fake.device.finish_later(lambda: threading.current_thread().name).result())
    with pytest.raises(RuntimeError, match="not permitted"):
        epoch(made)
    refusing.clear()
    same(epoch(made), good)
    (backend,) = fake.device.backends.values()
    assert len(backend._idle) == fake.device.slots and not backend._flying


def test_an_upload_whose_end_cannot_be_recorded_is_waited_for(gpu, small):
    """Else it would overwrite the pixels of the slot's next batch."""
    fake = gpu(slots=1)
    raw, jpegs = (small_loader(small, {"device": "cuda:0"}, 8, indices=[*range(n, 16, 2)]) for n in (1, 0))
    epoch(raw)
    good = epoch(jpegs)

    def fails_once(event):
        del fake.device.copies.record
        raise RuntimeError("broken")

    fake.device.copies.record = fails_once
    with pytest.raises(RuntimeError, match="broken"):
        epoch(raw)
    same(epoch(jpegs), good)
    assert fake.device._made == len(fake.device._free) == 1


@pytest.mark.parametrize("call", ["fake_gpu.FakeOwner.make_current", "fake_streams.FakeStream.wait"])
def test_one_failing_call_at_any_place_leaves_nothing_in_flight(gpu, small, good, monkeypatch, call):
    """A slot that is lost thereby is not reused before the GPU is done with it, either."""
    fake = gpu()
    made = small_loader(small, {"device": "cuda:0"}, 6)
    real, calls, failing = resolve_name(f"tests.{call}"), itertools.count(1), [0]

    def fails_once(*arguments):
        if next(calls) == failing[0]:
            raise RuntimeError("broken")
        return real(*arguments)

    monkeypatch.setattr(f"tests.{call}", fails_once)
    epoch(made)
    for number in range(1, next(calls)):
        calls, failing[0] = itertools.count(1), number
        with suppress(RuntimeError):
            epoch(made)
        same(epoch(made), good)
        gc.collect()
        assert fake.device._made == len(fake.device._free)
        assert not fake.nvjpeg.mistakes, failing

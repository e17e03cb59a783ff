"""Memory of a GPU: used again only when nobody uses it, shared by loaders, and bounded.

Work on the fake GPU waits until somebody waits for it, so memory used again too early shows as wrong values.
"""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import OutOfGpuMemory, PipelineError
from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.loader.resident import ResidentLoader
from ffcv_gpu.transforms import ToDevice, ToTensor
from tests.fake_gpu import FakeGpu
from tests.fake_streams import FakeEvent
from tests.mixed_file import SETTINGS, Mixed, N, kept, on_cpu, pipelines, same_batches, write_mixed


def test_a_kept_batch_stays_valid_and_a_dropped_one_is_used_again(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 4, pipelines=pipelines(), batches_ahead=2, **SETTINGS)
    expected = on_cpu(files[1.0], pipelines(None), batch_size=4, epochs=3)
    read = []
    for _ in range(3):
        for images, *_ in loader:
            target = torch.empty_like(images)
            read.append(target)
            # the consumer's stream uses the batch later than Python drops it
            fake.owner.consumer.submit(lambda target=target, images=images: target.copy_(images))
    fake.owner.consumer.synchronize()
    for target, batch in zip(read, expected, strict=True):
        assert torch.equal(target, batch[0])


class Hasty(FakeEvent):
    """An event that is never waited for."""

    def synchronize(self):
        pass


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["pixels", "jpegs"])
def test_without_the_wait_an_arena_is_overwritten_too_early(gpu, files, share):
    """The guards of a slot are needed: without them batches are wrong, or launch blocks garbage."""
    fake = gpu()
    fake.owner.new_event = lambda: Hasty(fake.owner.streams)
    # All batches of one size: their launch blocks lie in the same places, so that what is read of a wrong
    # one is another batch's and never a size that takes for ever.
    settings = {**SETTINGS, "drop_last": True}
    loader = Loader(files[share], 4, pipelines=pipelines(), **settings)
    expected = on_cpu(files[share], pipelines(None), batch_size=4, epochs=2, **settings)
    try:
        batches = kept(fake, loader, epochs=2)
        right = all(torch.equal(a[0], b[0]) for a, b in zip(batches, expected, strict=True))
    except (ValueError, ArithmeticError):  # the kernel got garbage for arguments
        right = False
    assert not right
    fake.nvjpeg.mistakes.clear()


def test_steady_state_allocates_nothing(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 8, pipelines=pipelines(), drop_last=True, seed=1, num_workers=2)
    # All slots are made, and large enough for any batch: how many an epoch needs depends on the threads.
    slots = [fake.device.borrow(lambda: False) for _ in range(fake.device.slots)]
    for slot in slots:
        slot.grow(1 << 20, 1 << 20)
        fake.device.give_back(slot)
    before = fake.owner.allocated
    for _ in range(5):
        for _ in loader:
            pass
    assert fake.owner.allocated == before


@pytest.mark.parametrize(("deviations", "again"), [(6, False), (0, True)])
def test_a_first_batch_of_small_images_makes_room_for_large_ones(
    gpu, make_photo, tmp_path, monkeypatch, deviations, again
):
    monkeypatch.setattr("ffcv_gpu.loader.gpu_engine.DEVIATIONS", deviations)
    fake = gpu(slots=1)
    dataset = Mixed(make_photo, 1.0)
    for i in range(0, N, 4):
        dataset.photos[i] = make_photo(150, 150, seed=i)
    path = write_mixed(tmp_path / "uneven.beton", dataset)
    loader = Loader(path, 8, pipelines=pipelines(), **{**SETTINGS, "order": OrderOption.SEQUENTIAL})
    small = [i for i in range(N) if i % 4]
    loader.indices = np.array([*small[:8], *np.random.default_rng(0).permutation(N)])
    batches = iter(loader)
    next(batches)
    first = fake.owner.allocated
    for _ in batches:
        pass
    assert (fake.owner.allocated > first) == again


def test_loaders_share_slots_handles_and_backend(gpu, files):
    fake = gpu()
    one, two = (Loader(files[1.0], 8, pipelines=pipelines(), **SETTINGS) for _ in range(2))
    pairs = list(zip(one, two, strict=True))
    fake.owner.consumer.synchronize()
    same_batches([a for a, _ in pairs], [b for _, b in pairs])
    assert len(fake.device.backends) == 1
    assert fake.device._made <= fake.device.slots


def test_a_loader_that_nobody_reads_does_not_stop_another(gpu, files):
    gpu()
    idle = Loader(files[1.0], 4, pipelines=pipelines(), **SETTINGS)
    waiting = iter(idle)
    next(waiting)
    busy = Loader(files[1.0], 4, pipelines=pipelines(), **SETTINGS)
    for _ in range(3):
        assert sum(1 for _ in busy) == len(busy)
    assert sum(1 for _ in waiting) == len(idle) - 1


def test_a_batch_larger_than_the_limit_is_worked_on_in_parts(gpu, files):
    fake = gpu()
    loader = Loader(files[0.4], 16, pipelines=pipelines(), gpu_memory_gb=0.0003, **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], pipelines(None), batch_size=16))
    assert fake.launches.launched > 2 * len(loader)
    arenas = [slot.arena.size_bytes for slot in fake.device._free]
    assert max(arenas) <= 1.05 * 0.0003e9 / 3


def test_a_sample_larger_than_the_limit_says_which_and_what_to_do(gpu, files):
    gpu()
    loader = Loader(files[0.4], 4, pipelines=pipelines(), gpu_memory_gb=0.00001, **SETTINGS)
    with pytest.raises(OutOfGpuMemory, match=r"sample \d+ needs .* on cuda:0.*increase gpu_memory_gb above"):
        list(loader)


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_full_gpu_says_what_was_asked_and_what_to_do(gpu, files):
    gpu(total=300_000)
    loader = Loader(files[0.4], 41, pipelines=pipelines(), gpu_memory_gb=1, **SETTINGS)
    with pytest.raises(
        OutOfGpuMemory, match=r"cuda:0: not enough memory for [\d.]+ MB .*: lower gpu_memory_gb="
    ):
        list(loader)
    assert not [t for t in threading.enumerate() if t.name.startswith("ffcv_gpu-worker")]


@pytest.mark.parametrize("value", [0, -1.0])
def test_a_limit_of_nothing_is_refused(files, value):
    with pytest.raises(PipelineError, match="gpu_memory_gb"):
        Loader(files[0.4], 4, gpu_memory_gb=value)


@pytest.mark.usefixtures("no_thread_is_left")
def test_early_ends_leave_nothing(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 4, pipelines=pipelines(), **SETTINGS)
    for _ in range(30):
        for _ in loader:
            break
    gc.collect()
    assert sum(t.name.startswith("ffcv_gpu-worker") for t in threading.enumerate()) == 0
    assert sum(1 for _ in loader) == len(loader)
    assert fake.device._made == len(fake.device._free) <= 3


def test_loaders_of_many_batch_sizes_do_not_add_up(gpu, files):
    """A state of nvJPEG keeps as much of the GPU's memory as its largest batch took."""
    fake = gpu()
    training = Loader(files[1.0], 8, pipelines=pipelines(), **SETTINGS)
    for _ in training:
        pass
    made = []
    for batch_size in range(9, 15):
        for _ in Loader(files[1.0], batch_size, pipelines=pipelines(), **SETTINGS):
            pass
        gc.collect()
        made.append(sum(call.name == "nvjpegJpegStateCreate" for call in fake.nvjpeg.calls))
    assert made[-1] <= made[0] + 1  # an epoch may need the states of a slot that the others did not
    backend = training._gpu_engine(training._programs, training.dataset).backend
    assert list(fake.device.backends.values()) == [backend]


class OnTheStream(torch.nn.Module):
    """Adds a weight in the order of the current stream, as a module does on a real GPU."""

    def __init__(self, fake, weight):
        super().__init__()
        self.owner, self.weight = fake.owner, weight

    def forward(self, batch):
        result, stream = torch.empty_like(batch), self.owner._current.stream
        stream.submit(lambda: torch.add(batch, self.weight, out=result))
        return result


@pytest.mark.parametrize("kind", [Loader, ResidentLoader])
def test_a_module_sees_the_weights_that_were_queued_before_the_epoch_began(gpu, equal_sizes, kind):
    """As those of a training step: the GPU may be as far behind as it likes."""
    fake = gpu()
    weight = torch.full((1,), 100, dtype=torch.int64)
    label = [IntDecoder(), ToTensor(), ToDevice(0), OnTheStream(fake, weight)]
    made = {"label": label, "image": None, "vector": None, "text": None}
    loader = Loader(equal_sizes, 8, pipelines=made, **{**SETTINGS, "order": OrderOption.SEQUENTIAL})
    fake.owner.consumer.submit(lambda: weight.fill_(1))
    batches = [labels for (labels,) in (loader if kind is Loader else ResidentLoader(loader))]
    fake.device.make_current()
    fake.device.stream.synchronize()
    assert torch.cat(batches).flatten().tolist() == [10 * i + 1 for i in range(N)]


@pytest.mark.parametrize("kind", [Loader, ResidentLoader])
def test_a_batch_outlives_its_loader_and_the_gpu_s_memory(gpu, equal_sizes, kind):
    """It may still be on its way from pinned memory when everything else is dropped."""
    fake = gpu()

    def made(device):
        return {**pipelines(device), "vector": None, "text": None}

    loader = Loader(equal_sizes, N, pipelines=made(0), **SETTINGS)
    loader = loader if kind is Loader else ResidentLoader(loader)
    (batch,) = loader
    dropped = weakref.ref(fake.device)
    del loader
    fake.device = FakeGpu().device  # nobody else holds it
    gc.collect()
    assert dropped() is None
    fake.owner.consumer.synchronize()
    (expected,) = on_cpu(equal_sizes, made(None), batch_size=N)
    assert torch.equal(batch[1], expected[1]) and (batch[0] - expected[0]).abs().max() < 0.1

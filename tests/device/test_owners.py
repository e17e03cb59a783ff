"""Who owns a GPU's memory, and the kernels on it: torch and CuPy on a GPU, the fake one anywhere."""

from __future__ import annotations

import gc
import threading
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.device.gpu import Arena, GpuDevice
from ffcv_gpu.kernels.block import BlockLayout
from tests.fake_gpu import FakeGpu
from tests.kernels.launches import by_cpu, random_launch
from tests.kernels.pass_launches import COLUMN, cases, compare

OWNERS = [
    "fake",
    *(pytest.param(name, marks=pytest.mark.gpu) for name in ("torch", "cupy") if find_spec(name)),
]
Bytes = npt.NDArray[np.uint8]


def real_device(name: str) -> GpuDevice:
    from ffcv_gpu.device.cuda_launches import CudaLaunches
    from ffcv_gpu.device.cupy_gpu import CupyGpu
    from ffcv_gpu.device.torch_gpu import TorchGpu

    return GpuDevice(TorchGpu(0) if name == "torch" else CupyGpu(0), CudaLaunches())


@pytest.fixture(params=OWNERS)
def device(request: pytest.FixtureRequest) -> Iterator[GpuDevice]:
    made = FakeGpu().device if request.param == "fake" else real_device(request.param)
    with made.owner.entered():
        yield made


def upload(device: GpuDevice, arena: Arena, start: int, content: Bytes) -> None:
    pinned = device.pinned(content.size)[: content.size]
    pinned[:] = content
    device.upload(pinned, arena, start, device.stream)
    wait(device)


def download(device: GpuDevice, arena: Arena, start: int, size: int) -> Bytes:
    pinned = device.pinned(size)[:size]
    device.owner.download(arena.memory, start, pinned, device.stream)
    wait(device)
    return pinned.copy()


def wait(device: GpuDevice) -> None:
    done = device.new_event()
    device.stream.record(done)
    done.synchronize()


def on_host(device: GpuDevice, array: Any) -> npt.NDArray[Any]:
    """Receive an output as a consumer does."""
    ready = device.new_event()
    device.stream.record(ready)
    device.owner.hand_over([array], ready)
    if hasattr(device.owner, "consumer"):
        device.owner.consumer.synchronize()
    return array.get() if hasattr(array, "get") else array.cpu().numpy()


def test_bytes_go_up_and_down(device: GpuDevice) -> None:
    content = np.random.default_rng(0).integers(0, 256, 100_001, dtype=np.uint8)
    arena = device.device_bytes(200_000)
    assert device.address(arena) % 256 == 0 or isinstance(arena.memory, np.ndarray)
    upload(device, arena, 77, content)
    assert np.array_equal(download(device, arena, 77, content.size), content)
    assert np.array_equal(download(device, arena, 1077, 10), content[1000:1010])


def test_outputs_hold_what_was_copied(device: GpuDevice) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    arena = device.device_bytes(1000)
    upload(device, arena, 64, values.view(np.uint8).reshape(-1))
    with device.owner.working_on(device.stream):
        whole = device.empty((4, 2, 2, 3), "float32")
        for lo in (0, 2):
            device.owner.copy(arena.memory, 64, whole[lo : lo + 2])
    assert np.array_equal(on_host(device, whole), np.concatenate([values, values]))
    assert tuple(device.owner.permuted(whole).shape) == (4, 3, 2, 2)


def test_memory_of_an_output_is_used_again_when_it_is_dropped(device: GpuDevice) -> None:
    places = set()
    for _ in range(6):
        with device.owner.working_on(device.stream):
            out = device.empty((1 << 20,), "uint8")
        on_host(device, out)
        places.add(device.owner.address(out))
        del out
    assert len(places) <= 2


def test_memory_in_use_is_not_released(device: GpuDevice) -> None:
    arena, content = device.device_bytes(1000), np.arange(100, dtype=np.uint8)
    upload(device, arena, 0, content)
    device.release_unused()
    assert np.array_equal(download(device, arena, 0, 100), content)


@pytest.mark.skipif(not find_spec("cupy"), reason="needs CuPy")
@pytest.mark.gpu
def test_memory_of_outputs_whose_sizes_change_does_not_add_up() -> None:
    """With CuPy; torch's allocator does that itself."""
    device = real_device("cupy")
    with device.owner.entered():
        for k in range(20):
            with device.owner.working_on(device.stream):
                out = device.empty((1 + k, 1 << 20), "uint8")
            on_host(device, out)
            del out
    assert sum(map(len, device.owner._free.values())) <= 2


def test_the_garbage_collector_may_drop_an_output_of_the_fake_one_at_any_time() -> None:
    owner, got = FakeGpu().owner, []

    class Free(dict[int, Any]):
        def get(self, *arguments: Any) -> Any:
            gc.collect()
            return super().get(*arguments)

    def take_two() -> None:
        owner.make_current()
        with owner.working_on(owner.new_stream()):
            cycle: list[Any] = [owner.empty((4,), "uint8")]
            cycle.append(cycle)
            del cycle
            owner._free = Free()
            got.append(owner.empty((4,), "uint8"))

    thread = threading.Thread(target=take_two, daemon=True)
    thread.start(), thread.join(60)
    assert len(got) == 1


def test_marks(device: GpuDevice) -> None:
    arena = device.device_bytes(5000)
    starts, marks = np.array([3, 1000, 4984]), np.arange(48, dtype=np.uint8).reshape(3, 16)
    device.stamp(arena, starts, marks, device.stream)
    upload(device, arena, 1007, np.zeros(1, np.uint8))
    assert device.unchanged(arena, starts, marks, device.stream).tolist() == [True, False, True]


@pytest.mark.parametrize("name", cases())
def test_launches_on_finished_images(device: GpuDevice, name: str) -> None:
    case = cases()[name]
    arena = device.device_bytes(case.memory.size)
    upload(device, arena, 0, case.memory)
    launches, places = device.launches, (case.source, case.target, case.scratch)
    with device.owner.working_on(device.stream):
        if isinstance(case.layout, BlockLayout):
            launches.measure(arena.views, case.layout, 0, (COLUMN,), case.source, device.stream)
        else:
            launches.transform(arena.views, case.layout, 0, *places, device.stream)
    compare(name, case, download(device, arena, 0, case.memory.size))


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_a_fused_launch_writes_an_output(device: GpuDevice, dtype: str) -> None:
    """The table holds bits, whatever the dtype."""
    if dtype == "bfloat16" and device.owner.container == "cupy":
        dtype = "uint16"  # CuPy has no bfloat16
    bits = f"uint{8 * (4 if dtype == 'float32' else 2)}"
    launch = random_launch(3, 1, size=(33, 41), source=(50, 90), count=5, dtype=bits)
    arena = device.device_bytes(launch.buffer.size + 16)
    upload(device, arena, 16, launch.buffer)
    table = launch.layout.read(launch.block).table
    table[:, 1] += 16  # offsets count from the first byte of the memory
    upload(device, arena, 16, launch.block)
    with device.owner.working_on(device.stream):
        out = device.empty((5, 33, 41, 3), dtype)
        device.launches.compose(arena.views, launch.layout, 16, out, device.stream)
    if dtype == "bfloat16":
        import torch

        out = out.view(torch.int16)
    found = on_host(device, out).reshape(-1).view(bits)
    table[:, 1] -= 16
    apart = np.abs(found.astype(np.int64) - by_cpu(launch))
    assert apart.max() <= 1 and (apart > 0).mean() < 0.03


@pytest.mark.gpu
def test_pixels_and_outputs_may_lie_beyond_four_gigabytes() -> None:
    """Offsets of an image in an arena, and of a sample in an output, need more than 32 bits."""
    device, far = real_device("torch"), (4 << 30) + 4096
    count, side = 1500, 1000
    small = random_launch(3, 1, size=(side, side), source=(50, 90), count=1, dtype="uint8")
    parts = small.layout.read(small.block)
    first = int(parts.table[0, 1])
    block = BlockLayout(count, side, side, 3, ops=small.layout.ops, params=small.layout.params)
    memory = np.zeros(block.size_bytes, np.uint8)
    table = np.repeat(parts.table, count, axis=0)
    table[:, 1] = far
    same = {name: np.repeat(getattr(parts, name), count, axis=0) for name in ("boxes", "geometry", "params")}
    made = block.write(
        memory, table=table, ops=parts.ops, fills=parts.fills, late_from=int(parts.settings[0]),
        lut=parts.lut, strides=parts.strides, **same,
    )  # fmt: skip
    made.rows[...], made.columns[...] = parts.rows, parts.columns
    with device.owner.entered():
        arena = device.device_bytes(far + small.buffer.size)
        upload(device, arena, 0, memory)
        upload(device, arena, far, small.buffer[first:])
        with device.owner.working_on(device.stream):
            out = device.empty((count, side, side, 3), "uint8")
            device.launches.compose(arena.views, block, 0, out, device.stream)
        last = on_host(device, out[-1:]).reshape(-1)
    apart = np.abs(last.astype(np.int64) - by_cpu(small))
    assert apart.max() <= 1 and (apart > 0).mean() < 0.03


@pytest.mark.gpu
def test_a_launch_on_an_image_with_more_parts_than_65535() -> None:
    from ffcv_gpu.kernels.pass_block import PassLayout
    from ffcv_gpu.kernels.pass_codes import PASS_SHARPEN
    from tests.kernels.pass_launches import place

    device, side = real_device("torch"), 2500
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    layout = PassLayout(1, PASS_SHARPEN, (side, side, 3), 1)
    case = place(layout, image, table=None, params=np.float32([[-0.7]]), constants=())
    with device.owner.entered():
        arena = device.device_bytes(case.memory.size)
        upload(device, arena, 0, case.memory)
        places = case.source, case.target, case.scratch
        device.launches.transform(arena.views, layout, 0, *places, device.stream)
        compare("sharpen", case, download(device, arena, 0, case.memory.size))


def test_pinned_memory_is_the_hosts_whatever_torchs_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.set_default_device("cuda")` also holds for our calls in the user's thread."""
    torch = pytest.importorskip("torch")
    from ffcv_gpu.device.torch_gpu import TorchGpu

    made = torch.empty
    with torch.device("meta"):  # torch now notes which functions obey it: not the one that follows
        assert made(1).is_meta
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **more: made(*size, **more))
    with torch.device("meta"):
        assert made(1).is_meta
        assert TorchGpu(0).pinned(10).nbytes == 10


def test_torchs_few_streams_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has 32, which it also gives to its user."""
    torch = pytest.importorskip("torch")
    from ffcv_gpu.device import torch_gpu

    made: list[int] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda index: made.append(index) or object())
    monkeypatch.setattr(torch_gpu, "_idle", defaultdict(list))
    kept = torch_gpu.TorchGpu(0).new_stream()
    for _ in range(40):
        streams = [torch_gpu.TorchGpu(index).new_stream() for index in (0, 0, 1)]
        assert len({id(stream.torch_stream) for stream in [kept, *streams]}) == 4
        del streams
    assert sorted(made) == [0, 0, 0, 1]

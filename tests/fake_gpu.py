"""A fake GPU: host memory, streams whose work waits, the CPU's kernels in place of CUDA's.

It stands where `ffcv_gpu.device.gpu.GpuDevice` meets torch or CuPy (`GpuOwner`) and CUDA (`GpuLaunches`), so
that everything above runs in ordinary tests. Beside `tests.fake_nvjpeg`, it makes mistakes of order visible:

- with deferred streams nothing happens until somebody waits, so memory that is used again too early holds
  the wrong bytes, every time;
- memory of outputs is used again at once, in the order of the stream it was made on, unless it was handed
  over (`record_stream`); then it waits for what the consumer's stream had been given;
- pinned memory is overwritten when it is dropped, as by the next who gets it from CuPy's pool;
- memory of arenas may have been somebody else's until a moment ago: what is queued on the stream that is
  current when it is made still writes to it, as after torch's and CuPy's allocators;
- a call in a thread whose current GPU is another, or none, fails: CUDA would make a context on the first GPU,
  which takes hundreds of megabytes there and belongs to another process. `working_on` is such a call: at its
  end, torch and CuPy make the GPU current again that was so before.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ffcv_gpu.device import CpuDevice, PassLaunch, PixelSource
from ffcv_gpu.device.gpu import GpuDevice
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import scratch_size
from ffcv_gpu.kernels.pass_block import PassLayout
from ffcv_gpu.kernels.pass_codes import PASS_BLEND, PASS_PAD
from tests.fake_nvjpeg import FakeNvjpeg, Memory
from tests.fake_streams import FakeEvent, FakeStream, FakeStreams

__all__ = ["FakeGpu", "FakeLaunches", "FakeOwner", "put_in_place"]

UNTOUCHED = 0xA5


def host_bytes(memory: Any) -> Any:
    """What a piece of "device" memory is: bytes of the host."""
    return memory.numpy() if isinstance(memory, torch.Tensor) else memory


def unowned(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The memory of an array, as a copying engine knows it: without a reference to the array."""
    return np.ctypeslib.as_array((ctypes.c_ubyte * array.size).from_address(array.ctypes.data))


class _Lease:
    """Dies with the last array made of a buffer."""

    def __init__(self, buffer: npt.NDArray[np.uint8], size: int) -> None:
        self.buffer = buffer
        self.__array_interface__ = buffer[:size].__array_interface__
        self.readers: list[FakeStream] = []


class FakeOwner:
    """`GpuOwner` in host memory; batches are torch tensors on the CPU.

    Parameters
    ----------
    index : int
    deferred : bool
        Whether work waits until somebody waits for it.
    total : int
        Size of the "GPU's" memory; more cannot be had.

    Attributes
    ----------
    consumer : FakeStream
        The stream that is current where batches are received.
    allocated : int
        Bytes of device and pinned memory ever made, outputs apart.
    """

    container = "tensor"

    def __init__(self, index: int = 0, *, deferred: bool = True, total: int = 1 << 30) -> None:
        self.index, self._total = index, total
        self.streams = FakeStreams(deferred=deferred)
        self.device, self.host = Memory(), Memory()
        self.consumer = self.streams.stream()
        self.allocated = 0
        self.outputs_made = self.released = 0
        self._lock = self.streams.lock
        self._current = threading.local()
        self._free: dict[int, list[tuple[npt.NDArray[np.uint8], FakeStream, list[FakeEvent]]]] = {}
        self._leases: weakref.WeakValueDictionary[int, _Lease] = weakref.WeakValueDictionary()

    def make_current(self) -> None:
        self._current.device = self.index

    @contextmanager
    def entered(self) -> Iterator[None]:
        before = getattr(self._current, "device", None)
        self._current.device = self.index
        try:
            yield
        finally:
            self._current.device = before

    def total_bytes(self) -> int:
        return self._total

    def _make(self, size_bytes: int, where: Memory) -> npt.NDArray[np.uint8]:
        with self._lock:
            self.allocated += size_bytes
            if self.allocated > self._total:
                raise MemoryError(f"{size_bytes} bytes more than there are")
            memory = np.full(size_bytes, UNTOUCHED, np.uint8)
            where.add(memory)
        return memory

    def device_bytes(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        self._check_thread()
        memory = self._make(size_bytes, self.device)
        stream = getattr(self._current, "stream", None) or self.consumer
        stream.submit(lambda: memory.fill(UNTOUCHED))
        return memory

    def pinned(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        self._check_thread()
        memory = self._make(size_bytes, self.host)
        lease = _Lease(memory, size_bytes)
        weakref.finalize(lease, memory.fill, UNTOUCHED).atexit = False  # somebody else's now
        return np.asarray(lease)

    def address(self, memory: Any) -> int:
        return int(host_bytes(memory).ctypes.data)

    def new_stream(self) -> FakeStream:
        self._check_thread()
        stream = self.streams.stream()
        stream.on_use = self._check_thread
        return stream

    def new_event(self) -> FakeEvent:
        self._check_thread()
        event = self.streams.event()
        event.on_use = self._check_thread
        return event

    def _check_thread(self) -> None:
        assert self.is_current(), "a CUDA call in a thread of no GPU makes a context on the first one"

    def upload(self, source: Any, memory: Any, start: int, stream: FakeStream) -> None:
        self._check_thread()
        target, pinned = host_bytes(memory), unowned(source)

        def copy() -> None:
            target[start : start + pinned.size] = pinned

        stream.submit(copy)

    def release_unused(self) -> None:
        self._check_thread()
        self.released += 1

    def download(self, memory: Any, start: int, target: Any, stream: FakeStream) -> None:
        source = host_bytes(memory)

        def copy() -> None:
            target[:] = source[start : start + target.size]

        stream.submit(copy)

    @contextmanager
    def working_on(self, stream: FakeStream) -> Iterator[None]:
        self._check_thread()
        before = getattr(self._current, "stream", None)
        self._current.stream = stream
        try:
            with self.entered():
                yield
        finally:
            self._current.stream = before

    def is_current(self) -> bool:
        """Whether this GPU is the calling thread's current one."""
        return getattr(self._current, "device", None) == self.index

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        kind = getattr(torch, dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        stream = self._current.stream
        with self._lock:
            free = self._free.get(size)
            buffer, owner, events = free.pop() if free else (None, stream, [])
        if buffer is None:
            buffer = np.full(max(size, 1), UNTOUCHED, np.uint8)
            self.device.add(buffer)
            self.outputs_made += 1
        assert owner is stream, "memory of one stream was given to another"
        for event in events:
            stream.wait(event)
        lease = _Lease(buffer, size)
        self._leases[buffer.ctypes.data] = lease
        weakref.finalize(lease, self._give_back, size, buffer, stream, lease.readers).atexit = False
        return torch.from_numpy(np.asarray(lease)).view(kind).reshape(shape)

    def _give_back(self, size: int, buffer: Any, stream: FakeStream, readers: list[FakeStream]) -> None:
        events = []
        for reader in readers:
            events.append(self.streams.event())
            reader.record(events[-1])
        with self._lock:
            self._free.setdefault(size, []).append((buffer, stream, events))

    def copy(self, memory: Any, start: int, out: torch.Tensor) -> None:
        target = out.reshape(-1).view(torch.uint8).numpy()

        def move() -> None:
            target[:] = memory[start : start + target.size]

        self._current.stream.submit(move)

    def permuted(self, array: torch.Tensor) -> torch.Tensor:
        return array.permute(0, 3, 1, 2)

    def follow_user(self, stream: FakeStream) -> None:
        submitted = self.streams.event()
        self.consumer.record(submitted)
        with self.entered():
            stream.wait(submitted)

    def hand_over(self, arrays: Sequence[torch.Tensor], ready: FakeEvent) -> None:
        self.consumer.wait(ready)
        for array in arrays:
            lease = self._leases.get(array.untyped_storage().data_ptr())
            if lease is not None:
                lease.readers.append(self.consumer)


class FakeLaunches:
    """`GpuLaunches` by the CPU's kernels, in the order of the stream; the GPU must be the current one."""

    def __init__(self, owner: FakeOwner) -> None:
        self._owner = owner
        self.launched = self.measured = 0

    def views(self, memory: Any) -> Any:
        assert self._owner.is_current()
        return host_bytes(memory)

    def compose(self, memory: Any, block: BlockLayout, start: int, out: Any, stream: FakeStream) -> None:
        assert self._owner.is_current()
        self.launched += 1
        stream.submit(lambda: compose(memory, block, start, out))

    def transform(
        self, views: Any, block: PassLayout, start: int, source: int, target: int, scratch: int, stream: Any
    ) -> None:
        assert self._owner.is_current()
        self.launched += 1
        stream.submit(lambda: transform(views, block, start, source, target))

    def measure(
        self, views: Any, block: BlockLayout, start: int, columns: Any, source: int, stream: Any
    ) -> None:
        assert self._owner.is_current()
        self.measured += 1
        stream.submit(lambda: measure(views, block, start, columns, source))

    def stamp(self, views: Any, marks: Any, count: int, width: int, stream: FakeStream) -> None:
        assert self._owner.is_current()

        def write() -> None:
            places, rows, _ = parts_of(marks, count, width)
            views[places] = rows

        stream.submit(write)

    def compare(self, views: Any, marks: Any, count: int, width: int, stream: FakeStream) -> None:
        assert self._owner.is_current()

        def look() -> None:
            places, rows, answers = parts_of(marks, count, width)
            answers[:] = (views[places] == rows).all(axis=1)

        stream.submit(look)


def parts_of(marks: Any, count: int, width: int) -> tuple[Any, Any, Any]:
    """Places (count, width), marks (count, width) and room for answers, as `GpuLaunches.stamp` says."""
    end = 8 * count + count * width
    starts = marks[: 8 * count].copy().view(np.int64)
    places = starts[:, None] + np.arange(width)
    return places, marks[8 * count : end].reshape(count, width), marks[end : end + count]


def compose(memory: Any, layout: BlockLayout, start: int, out: Any) -> None:
    """Run the CPU's kernel on what a launch block says."""
    from ffcv_gpu.kernels.shell_cpu import compose as run

    parts = layout.read(memory[start : start + layout.size_bytes])
    late_from, resample, height, width = parts.settings[:4].tolist()
    bits = out.numpy() if isinstance(out, torch.Tensor) and out.dtype != torch.bfloat16 else out
    if isinstance(bits, torch.Tensor):
        bits = bits.view(torch.int16).numpy()
    bits = bits.reshape(-1).view(f"u{bits.itemsize}")
    tallest, widest = parts.boxes[:, 2:].max(axis=0).tolist()
    floats = scratch_size(tallest, widest, height, width, layout.channels)
    pixels = memory.view()
    pixels.flags.writeable = False
    run(
        pixels, pixels, parts.table, parts.boxes, parts.geometry, parts.params, parts.ops, parts.fills,
        late_from, parts.lut.astype(bits.dtype), bits, parts.strides, height, width, resample,
        np.empty(floats, np.float32), 0, layout.count,
    )  # fmt: skip


def transform(memory: Any, layout: PassLayout, start: int, source: int, target: int) -> None:
    """Run the CPU's launch on finished images by what a block says."""
    block = layout.read(memory[start : start + layout.size_bytes])
    size = layout.count * int(np.prod(layout.shape))
    whole = memory if layout.kernel == PASS_PAD else memory[source:]
    launch = PassLaunch(layout.kernel, block.params, shaped(layout, block.constants), layout.shape)
    out = memory[target : target + size].reshape(layout.count, *layout.shape)
    CpuDevice(0).transform(
        launch, PixelSource(block.table, whole, whole), out, lambda floats: np.empty(floats, np.float32)
    )


def shaped(layout: PassLayout, constants: Any) -> Any:
    """Constants in the shapes that the CPU's kernels take: a blend's first two are images."""
    images = 2 if layout.kernel == PASS_BLEND else 0
    return tuple(c.reshape(layout.shape) if n < images else c for n, c in enumerate(constants))


def measure(memory: Any, layout: BlockLayout, start: int, columns: Any, source: int) -> None:
    """Write means of grey into a launch block."""
    from ffcv_gpu.kernels.passes_cpu import mean_grey

    params = layout.read(memory[start : start + layout.size_bytes]).params
    shape = (layout.count, layout.out_h, layout.out_w, layout.channels)
    images = memory[source : source + int(np.prod(shape))].reshape(shape)
    for column in columns:
        mean_grey(images, params, column, 0, layout.count)


class FakeGpu:
    """A `GpuDevice` on host memory, and the fake nvJPEG that decodes into it.

    Parameters
    ----------
    engines : int
        JPEG engines of the GPU.
    deferred : bool
    total : int
        Bytes of GPU memory.
    slots : int
    launches : callable
        Makes what runs the kernels: `FakeLaunches` or `tests.ptx.gpu.PtxLaunches`.
    """

    def __init__(
        self,
        *,
        engines: int = 7,
        deferred: bool = True,
        total: int = 1 << 30,
        slots: int = 3,
        launches: Callable[[FakeOwner], Any] = FakeLaunches,
    ) -> None:
        self.owner = FakeOwner(deferred=deferred, total=total)
        self.launches = launches(self.owner)
        self.device = GpuDevice(self.owner, self.launches, slots)
        self.nvjpeg = FakeNvjpeg(
            engines=engines,
            streams=self.owner.streams,
            is_current=self.owner.is_current,
            device_memory=self.owner.device,
            host_memory=self.owner.host,
        )

    def close(self) -> None:
        """Close the backends, and raise if one of nvJPEG's rules was broken."""
        for backend in self.device.backends.values():
            backend.close()
        self.device.backends.clear()
        self.nvjpeg.verify()


def put_in_place(fake: FakeGpu, patch: Any) -> None:
    """Let the whole package find the fake GPU as cuda:0, with its nvJPEG; `patch` is pytest's monkeypatch."""
    from ffcv_gpu.device import discovery
    from ffcv_gpu.jpeg.nvjpeg import handles
    from ffcv_gpu.native import nvjpeg_library

    patch.setattr(discovery, "_count_with_torch", lambda name: 1)
    patch.setitem(discovery._gpus, 0, fake.device)
    patch.setattr(nvjpeg_library, "library", fake.nvjpeg.as_library)
    patch.setattr(handles, "_known", {})

"""A fake library, a backend on it, and pictures for them: for the tests of the nvJPEG backend.

No GPU: device memory is host memory, and work waits until somebody waits for it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.jpeg.base import Decoded, Encoded
from ffcv_gpu.jpeg.nvjpeg import NvjpegBackend
from ffcv_gpu.jpeg.scan import scan_jpegs
from ffcv_gpu.jpeg.turbo import TurboBackend
from tests.fake_nvjpeg import FakeNvjpeg, Memory
from tests.fake_nvjpeg_objects import State
from tests.fake_streams import FakeEvent, FakeStream, FakeStreams

MakeJpeg = Callable[..., bytes]
UNTOUCHED = 0xA5
GAP = 7

# what the backend calls images by their route
ENGINE, GPU = "jpeg: engine", "jpeg: gpu huffman"
ONE_GPU, ONE_CPU = "jpeg: one by one, gpu huffman", "jpeg: one by one, cpu huffman"
CPU = "jpeg: cpu, uploaded"


class HostGpu:
    """`GpuMemory` in host memory, and a consumer that reads arenas on a stream of its own."""

    index = 0

    def __init__(self, *, deferred: bool = True, waits: bool = True) -> None:
        self.streams = FakeStreams(deferred=deferred)
        self.device, self.host = Memory(), Memory()
        self.waits = waits
        self.allocations = self.released = 0
        self.waited = 0
        self.reader = self.streams.stream()
        self._readers: dict[int, FakeEvent] = {}

    def make_current(self) -> None: ...

    def address(self, arena: npt.NDArray[np.uint8]) -> int:
        return int(arena.ctypes.data)

    def device_bytes(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        self.allocations += 1
        arena = np.full(size_bytes, UNTOUCHED, np.uint8)
        self.device.add(arena)
        return arena

    def pinned(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        self.allocations += 1
        memory = np.zeros(size_bytes, np.uint8)
        self.host.add(memory)
        return memory

    def new_stream(self) -> FakeStream:
        return self.streams.stream()

    def new_event(self) -> FakeEvent:
        return self.streams.event()

    def upload(self, source: Any, arena: Any, start: int, stream: FakeStream) -> None:
        def copy() -> None:
            arena[start : start + source.size] = source

        stream.submit(copy)

    def wait_until_free(self, arena: Any) -> None:
        self.waited += 1
        event = self._readers.get(self.address(arena))
        if event is not None and self.waits:
            event.synchronize()

    def release_unused(self) -> None:
        self.released += 1

    def use_after(self, event: FakeEvent) -> None:
        self.reader.wait(event)

    def stamp(self, arena: Any, starts: Any, marks: Any, stream: FakeStream) -> None:
        def write() -> None:
            arena[starts[:, None] + np.arange(marks.shape[1])] = marks

        stream.submit(write)

    def unchanged(self, arena: Any, starts: Any, marks: Any, stream: FakeStream) -> Any:
        stream.synchronize()
        return (arena[starts[:, None] + np.arange(marks.shape[1])] == marks).all(axis=1)

    def read_later(self, arena: Any, out: Any) -> None:
        """What the fused kernel does: read the arena in the order of a stream, some time."""

        def copy() -> None:
            out[:] = arena

        self.reader.submit(copy)
        event = self._readers[self.address(arena)] = self.streams.event()
        self.reader.record(event)


class Pictures:
    """JPEGs in pinned memory, an arena for them with gaps, and what libjpeg-turbo makes of them."""

    def __init__(self, gpu: HostGpu, files: list[bytes], sizes: list[tuple[int, int]], facts: bool) -> None:
        stored = gpu.pinned(sum(map(len, files)))
        stored[:] = np.frombuffer(b"".join(files), np.uint8)
        lengths = np.array([len(file) for file in files], np.int64)
        heights, widths = np.array(sizes, np.int64).T
        offsets = np.cumsum(lengths) - lengths
        found = scan_jpegs(stored, offsets, lengths).facts if facts else None
        self.encoded = Encoded(stored, offsets, lengths, heights, widths, found)
        spaces = 3 * heights * widths + GAP
        self.starts = np.cumsum(spaces) - spaces
        self.arena = gpu.device_bytes(int(spaces.sum()))
        self.expected = np.full_like(self.arena, UNTOUCHED)
        self.turbo = TurboBackend().submit(self.encoded, self.expected, self.starts).wait()

    def submit(self, backend: NvjpegBackend) -> Any:
        self.arena[:] = UNTOUCHED
        return backend.submit(self.encoded, self.arena, self.starts)

    def check(self, outcome: Decoded) -> None:
        """The same statuses as libjpeg-turbo, the same pixels in good images, gaps left alone."""
        assert outcome.status.tolist() == self.turbo.status.tolist()
        assert set(outcome.reasons) == set(np.flatnonzero(self.turbo.status).tolist())
        wrong = [i for i, part in enumerate(self.parts()) if not part and not outcome.status[i]]
        assert wrong == []
        ends = self.starts + 3 * self.encoded.heights * self.encoded.widths
        assert (self.arena[ends[:, None] + np.arange(GAP)] == UNTOUCHED).all()

    def parts(self) -> Iterator[bool]:
        sizes = 3 * self.encoded.heights * self.encoded.widths
        for start, size in zip(self.starts, sizes, strict=True):
            yield np.array_equal(self.arena[start : start + size], self.expected[start : start + size])


@dataclass(frozen=True)
class BatchedCall:
    """What `nvjpegDecodeBatched` was given, fillers too; how many batches were in flight then."""

    state: int
    files: list[bytes]
    targets: list[int]
    flying_of_state: int
    flying: int


class Bench:
    """A GPU, its fake library, a backend."""

    def __init__(self, *, batch_size: int = 8, deferred: bool = True, waits: bool = True, engines: int = 0,
                 memory_limit: int | None = None, **settings: Any) -> None:  # fmt: skip
        self.gpu = HostGpu(deferred=deferred, waits=waits)
        self.fake = FakeNvjpeg(
            engines=engines,
            streams=self.gpu.streams,
            device_memory=self.gpu.device,
            host_memory=self.gpu.host,
        )
        self.fake.memory_limit_bytes = memory_limit
        self.backend = NvjpegBackend(
            self.gpu, batch_size=batch_size, library=self.fake.as_library(), **settings
        )

    def pictures(self, files: list[bytes], sizes: list[tuple[int, int]], *, facts: bool = True) -> Pictures:
        return Pictures(self.gpu, files, sizes, facts)

    def calls(self, name: str) -> int:
        return sum(call.name == name for call in self.fake.calls)

    def watch(self) -> list[BatchedCall]:
        """Return a list that is added to with each batched call from now on, before it is made."""
        decode, seen = self.fake.nvjpegDecodeBatched, list[BatchedCall]()

        def look(handle: int, state: int, data: Any, lengths: Any, images: Any, stream: int) -> int:
            places = range(self.fake._objects[state].batch_size)
            states = [found for found in self.fake._objects.values() if isinstance(found, State)]
            seen.append(BatchedCall(
                state,
                [ctypes.string_at(data[k], lengths[k]) for k in places],
                [images[k].channel[0] for k in places],
                self.fake._objects[state].flying,
                sum(found.flying for found in states),
            ))  # fmt: skip
            return int(decode(handle, state, data, lengths, images, stream))

        self.fake.nvjpegDecodeBatched = look
        return seen


def plain(
    make_jpeg: MakeJpeg, count: int, *, alike: bool = False
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Baseline photos of different sizes, one of them grey, and of different samplings.

    `alike`: none is subsampled, so that one call of the engine takes all of them.
    """
    files, sizes = _plain(make_jpeg, count, alike)
    return files.copy(), sizes.copy()


@functools.cache
def _plain(make_jpeg: MakeJpeg, count: int, alike: bool) -> tuple[list[bytes], list[tuple[int, int]]]:
    sizes = [(24 + 3 * (i % 7), 40 - i % 11) for i in range(count)]
    modes = ["L" if i == 2 else "RGB" for i in range(count)]
    samplings = ["4:4:4"] * 3 if alike else ["4:2:0", "4:4:4", "4:2:2"]
    files = [
        make_jpeg(*size, seed=i, mode=mode, **({"subsampling": samplings[i % 3]} if mode == "RGB" else {}))
        for i, (size, mode) in enumerate(zip(sizes, modes, strict=True))
    ]
    return files, sizes


def mixed(make_jpeg: MakeJpeg) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Something for every route, good and bad."""
    files, sizes = plain(make_jpeg, 5)
    more: list[tuple[bytes, tuple[int, int]]] = [
        (make_jpeg(30, 20, 5, progressive=True), (30, 20)),
        (make_jpeg(30, 20, 6, mode="CMYK"), (30, 20)),
        (make_jpeg(9, 7, 7), (9, 7)),
        (make_jpeg(3, 1, 7), (3, 1)),
        (make_jpeg(120, 100, 8), (120, 100)),
        (make_jpeg(30, 20, 9, restart_marker_rows=1), (30, 20)),
        (make_jpeg(30, 20, 10, keep_rgb=True), (30, 20)),
        (b"no JPEG", (8, 8)),
        (b"", (8, 8)),
        (make_jpeg(30, 20, 11)[:60], (30, 20)),
    ]
    return files + [file for file, _ in more], sizes + [size for _, size in more]

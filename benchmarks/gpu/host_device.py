"""The rehearsal's GPU: host memory, streams with deferred work, the fake nvJPEG of ``tests/``.

Submitted work runs as late as a GPU may run it (when something waits for it), and misuse of nvJPEG is
recorded. Its times mean nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.device import Bytes
from benchmarks.gpu.peers import BATCH, PIXELS, Files, Made, MakePeer
from ffcv_gpu.native.nvjpeg_library import NvjpegLibrary

__all__ = ["HostGpu", "tests_package"]

TOTAL_BYTES = 1 << 34


def tests_package() -> None:
    """Make ``import tests.x`` find the repository's tests, not another package called ``tests``."""
    if "tests" not in sys.modules:
        package = ModuleType("tests")
        package.__path__ = [str(Path(__file__).resolve().parents[2] / "tests")]
        sys.modules["tests"] = package


class _HostMemory:
    def __init__(self, array: Bytes) -> None:
        self.array, self.address, self.size = array, int(array.ctypes.data), array.size


class HostGpu:
    """See `benchmarks.gpu.device.Gpu`."""

    rehearsal = True

    def __init__(self, *, engines: int = 7) -> None:
        tests_package()
        from tests.fake_nvjpeg import FakeNvjpeg, Memory
        from tests.fake_streams import FakeStreams

        self._streams, self._device, self._host = FakeStreams(), Memory(), Memory()
        self._taken, self._engines = 0, engines
        self._forgiven: tuple[str, ...] = ()
        self._fakes: list[Any] = []
        self._patches = ExitStack()
        self.fake = FakeNvjpeg(
            engines=engines, streams=self._streams, device_memory=self._device, host_memory=self._host
        )

    @property
    def name(self) -> str:
        """The GPU's name in ffcv_gpu, which from now on finds the tests' fake GPU under it."""
        if not self._fakes:
            self._fakes.append(self._installed())
        return "cuda:0"

    def _installed(self) -> Any:
        from ffcv_gpu.device import discovery
        from ffcv_gpu.jpeg.nvjpeg import handles
        from ffcv_gpu.native import nvjpeg_library
        from tests.fake_gpu import FakeGpu

        made = FakeGpu(engines=self._engines)
        for patch in (
            mock.patch.dict(discovery._gpus, {0: made.device}),
            mock.patch.object(discovery, "_count_with_torch", return_value=1),
            mock.patch.object(nvjpeg_library, "library", made.nvjpeg.as_library),
            mock.patch.object(handles, "_known", {}),
        ):
            self._patches.enter_context(patch)
        return made

    def close(self) -> None:
        """Let ffcv_gpu find the real GPUs again."""
        for made in self._fakes:
            made.close()
        self._patches.close()

    def facts(self) -> dict[str, Any]:
        """Say that there is no GPU."""
        return {
            "gpu": "rehearsal, no GPU",
            "driver": "none",
            "nvjpeg": list(self.fake.version),
            "nvjpeg_origin": "fake",
        }

    def library(self) -> NvjpegLibrary:
        found: NvjpegLibrary = self.fake.as_library()
        return found

    def forgive(self, words: str) -> None:
        """Ignore mistakes that contain these words: the experiment makes them on purpose."""
        self._forgiven = (*self._forgiven, words)

    def mistakes(self) -> list[str]:
        """Return calls that the real library forbids."""
        all_of_them = [m for fake in (self.fake, *(f.nvjpeg for f in self._fakes)) for m in fake.mistakes]
        return [m for m in all_of_them if not any(words in m for words in self._forgiven)]

    def use(self) -> None: ...

    def memory(self, size: int) -> _HostMemory:
        array = np.full(max(size, 1), 0xCD, np.uint8)
        self._taken += array.size
        self._device.add(array)
        return _HostMemory(array)

    def pinned(self, size: int) -> Bytes:
        array = np.zeros(max(size, 1), np.uint8)
        self._host.add(array)
        return array

    pageable = pinned

    def stream(self) -> Any:
        return self._streams.stream()

    def handle(self, stream: Any) -> int:
        return int(stream.handle)

    def current(self, stream: Any) -> Any:
        return nullcontext()

    def event(self) -> Any:
        return self._streams.event()

    def record(self, event: Any, stream: Any) -> None:
        stream.record(event)

    def wait(self, stream: Any, event: Any) -> None:
        stream.wait(event)

    def await_event(self, event: Any) -> None:
        event.synchronize()

    def synchronize(self, stream: Any = None) -> None:
        (self._streams if stream is None else stream).synchronize()
        for made in self._fakes if stream is None else ():
            made.owner.streams.synchronize()

    def _submit(self, work: Callable[[], None], stream: Any) -> None:
        (stream or self._streams.default).submit(work)

    def fill(self, memory: Any, value: int, stream: Any = None) -> None:
        self._submit(lambda: memory.array.fill(value), stream)

    def copy(self, source: Any, target: Any, stream: Any) -> None:
        self._submit(lambda: np.copyto(target.array, source.array), stream)

    def upload(self, source: Bytes, target: Any, stream: Any) -> None:
        self._submit(lambda: np.copyto(target.array[: source.size], source), stream)

    def download(self, memory: Any) -> Bytes:
        self.synchronize()
        copied: Bytes = memory.array.copy()
        return copied

    def equal(self, one: Any, other: Any) -> bool:
        return np.array_equal(self.download(one), self.download(other))

    def host(self, array: Any) -> npt.NDArray[Any]:
        for made in self._fakes:
            made.owner.consumer.synchronize()
        return np.array(array.numpy() if hasattr(array, "numpy") else array)

    def clone(self, array: Any) -> Any:
        copied = array.clone()
        copied.zero_()
        for made in self._fakes:
            made.owner.consumer.submit(lambda: copied.copy_(array))
        return copied

    def spin(self, milliseconds: float, stream: Any) -> None:
        self._submit(lambda: None, stream)

    def span(self, work: Callable[[], None], stream: int) -> float:
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start

    def load(self) -> Callable[[], None]:
        square = np.ones((64, 64), np.float32)

        def step() -> None:
            np.matmul(square, square)

        return step

    def training(self, network: str, batch_size: int) -> Callable[[Any], None]:
        return lambda images: images.float().mean()

    def images(self, batch_size: int, side: int) -> Any:
        import torch

        return torch.zeros(batch_size, 3, side, side, dtype=torch.float16)

    def peers(self, part: str) -> Mapping[str, MakePeer]:
        return {f"stand-in, {PIXELS}": _decoding, f"stand-in, {BATCH}": _augmenting, "absent": _absent}

    def free_bytes(self) -> int:
        return TOTAL_BYTES - self._taken

    def broken(self) -> str:
        return ""

    def apart(self, one: Sequence[Any], other: Sequence[Any]) -> tuple[int, float]:
        a, b = (np.concatenate([self.host(image).ravel() for image in images]) for images in (one, other))
        found = np.abs(a.astype(np.int16) - b)
        return int(found.max()), float(found.mean())

    def context_waits(self, how: str) -> int:
        return 0

    def activities(self, work: Callable[[], None]) -> dict[str, dict[str, tuple[int, float]]]:
        work()
        return {"calls": {}, "kernels": {}}


def _decoding(files: Files) -> Made:
    """Stand in for a library's decoder."""
    import simplejpeg

    def decode(batch: Sequence[bytes]) -> list[Any]:
        return [simplejpeg.decode_jpeg(file, "RGB") for file in batch]

    return Made(PIXELS, lambda: map(decode, files), lambda: decode(files[0])[0], settings={"threads": 1})


def _augmenting(files: Files) -> Made:
    """Stand in for a library's pipeline that passes over the files twice."""
    import torch

    return Made(BATCH, lambda: (torch.zeros(len(batch), 3, 32, 32) for batch in [*files, *files]), times=2)


def _absent(files: Files) -> Made:
    """Stand in for a library that is not installed."""
    raise ImportError("no such library")

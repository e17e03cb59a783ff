"""A GPU that does nothing: behind the calls that the Loader makes, only time passes, or not even that.

The fake GPU of ``tests/``, without its work and without its checks. Its results are garbage. The two calls
per batch are compiled, so that they run without the GIL, as nvJPEG's do.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from numba import carray, cfunc, types

from ffcv_gpu.native.nvjpeg import PROTOTYPES

ROOT = Path(__file__).resolve().parents[2]


def tests_package() -> None:
    """Make ``import tests.x`` find the repository's tests; the root is not on the path."""
    package = ModuleType("tests")
    package.__path__ = [str(ROOT / "tests")]
    package.__spec__ = importlib.machinery.ModuleSpec("tests", None, is_package=True)
    sys.modules.setdefault("tests", package)


tests_package()
from tests import fake_gpu, fake_nvjpeg, fake_nvjpeg_objects  # noqa: E402 (not before that)

#: outputs of each shape and type that are used in turn: more than a consumer holds
OUTPUTS = 24

MONOTONIC, THREAD = 1, 3  # clockid_t: real time, and this thread's CPU time
usleep, clock_gettime = ctypes.CDLL(None).usleep, ctypes.CDLL(None).clock_gettime
usleep.argtypes, usleep.restype = [ctypes.c_uint32], ctypes.c_int32
clock_gettime.argtypes = [ctypes.c_int32, ctypes.POINTER(ctypes.c_int64)]
clock_gettime.restype = ctypes.c_int32

INT, POINTER, CELL = types.int32, types.voidptr, types.CPointer(types.int64)
#: a state's memory: seconds and nanoseconds as read from a clock, images of its batches, nanoseconds spun
SECONDS, NANOSECONDS, IMAGES, SPUN, SIZE = 0, 1, 2, 3, 4


def calls(image_ns: int, *, spins: bool) -> dict[str, Any]:
    """Return nvJPEG's two calls per batch; decoding takes `image_ns` per image, waiting or spinning."""

    def initialize(_handle, state, images, _threads, _output):  # type: ignore[no-untyped-def]
        carray(state, SIZE)[IMAGES] = images
        return 0

    def decode(_handle, state, _data, _lengths, _destinations, _stream):  # type: ignore[no-untyped-def]
        cell = carray(state, SIZE)
        left = cell[IMAGES] * image_ns
        if spins and left:
            clock_gettime(THREAD, state)
            begun = cell[SECONDS] * 1_000_000_000 + cell[NANOSECONDS]
            clock_gettime(MONOTONIC, state)
            end = cell[SECONDS] * 1_000_000_000 + cell[NANOSECONDS] + left
            while cell[SECONDS] * 1_000_000_000 + cell[NANOSECONDS] < end:
                clock_gettime(MONOTONIC, state)
            clock_gettime(THREAD, state)
            cell[SPUN] += cell[SECONDS] * 1_000_000_000 + cell[NANOSECONDS] - begun
        elif left:
            usleep(np.uint32(left // 1000))
        return 0

    initialized = cfunc(INT(POINTER, CELL, INT, INT, INT))(initialize)
    decoded = cfunc(INT(POINTER, CELL, POINTER, POINTER, POINTER, POINTER))(decode)
    return {"nvjpegDecodeBatchedInitialize": initialized, "nvjpegDecodeBatched": decoded}


class StillNvjpeg(fake_nvjpeg.FakeNvjpeg):
    """nvJPEG whose batches take time and write nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._cells: list[npt.NDArray[np.int64]] = []
        self._compiled: dict[str, Any] = {}

    def take_time(self, image_ns: int, *, spins: bool) -> None:
        """Let the engines take `image_ns` nanoseconds per image."""
        self._compiled = calls(image_ns, spins=spins)
        for name, compiled in self._compiled.items():
            setattr(self, name, ctypes.CFUNCTYPE(ctypes.c_int, *PROTOTYPES[name])(compiled.address))

    @property
    def spun_seconds(self) -> float:
        """CPU seconds of spinning so far."""
        return sum(int(cell[SPUN]) for cell in self._cells) * 1e-9

    def _new(self, out: Any, made: object) -> None:
        if not isinstance(made, fake_nvjpeg_objects.State):
            super()._new(out, made)
            return
        cell = np.zeros(SIZE, np.int64)
        self._cells.append(cell)
        out[0] = cell.ctypes.data
        self._objects[cell.ctypes.data] = made


class StillOwner(fake_gpu.FakeOwner):
    """Memory that nothing is copied to."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._outputs: dict[Any, list[torch.Tensor]] = defaultdict(list)
        self._turn = 0

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """Return one of some tensors, in turn."""
        with self._lock:
            kept = self._outputs[shape, dtype]
            if len(kept) < OUTPUTS:
                kept.append(torch.empty(shape, dtype=getattr(torch, dtype)))
                return kept[-1].view(shape)
            self._turn += 1
            return kept[self._turn % OUTPUTS].view(shape)

    def upload(self, *_: Any) -> None:
        """Copy nothing."""

    def download(self, memory: Any, start: int, target: Any, stream: Any) -> None:
        """Copy nothing."""

    def copy(self, *_: Any) -> None:
        """Copy nothing."""


class StillLaunches(fake_gpu.FakeLaunches):
    """Launches of nothing."""

    def compose(self, *_: Any) -> None:
        """Compute nothing."""

    def transform(self, *_: Any) -> None:
        """Compute nothing."""


def still_gpu(image_ns: int, *, spins: bool) -> fake_gpu.FakeGpu:
    """Return a GPU that does nothing, as this process's cuda:0."""
    with mock.patch.object(fake_gpu, "FakeOwner", StillOwner), \
         mock.patch.object(fake_gpu, "FakeNvjpeg", StillNvjpeg):  # fmt: skip
        gpu = fake_gpu.FakeGpu(deferred=False, total=1 << 34, launches=StillLaunches)
    gpu.nvjpeg.take_time(image_ns, spins=spins)
    fake_gpu.put_in_place(gpu, Patch())
    return gpu


class Patch:
    """pytest's monkeypatch for a process that patches once."""

    setattr = staticmethod(setattr)

    @staticmethod
    def setitem(mapping: Any, key: Any, value: Any) -> None:
        """Set an item."""
        mapping[key] = value

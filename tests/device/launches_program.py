"""Launches through numba on the fake driver; prints what the driver saw. Run by `test_cuda_launches`."""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from ffcv_gpu.device.cuda_launches import CudaLaunches
from ffcv_gpu.kernels import shell_cuda
from ffcv_gpu.kernels.block import BlockLayout

DRIVER = ctypes.CDLL("libcuda.so.1")
DRIVER.fake_launched.restype = ctypes.c_int64
ALIGNMENT = 512
STREAM = SimpleNamespace(handle=0x7000)
MARKS, WIDTH = 8, 16


class Memory:
    """Memory as a GPU's owner shows it."""

    dtype = "uint8"

    def __init__(self, size: int, kind: str = "|u1", itemsize: int = 1) -> None:
        self._memory = np.zeros(size + ALIGNMENT, np.uint8)
        self.address = -(-self._memory.ctypes.data // ALIGNMENT) * ALIGNMENT
        data = (self.address, False)
        shape = (size // itemsize,)
        self.__cuda_array_interface__ = {
            "data": data,
            "shape": shape,
            "typestr": kind,
            "version": 2,
            "strides": None,
        }


def make_current(gpu: int) -> None:
    """Do what the owner's `make_current` does."""
    context = ctypes.c_void_p()
    DRIVER.cuDevicePrimaryCtxRetain(ctypes.byref(context), gpu)
    DRIVER.cuCtxSetCurrent(context)


def seen() -> list[int]:
    return [int(DRIVER.fake_launched(i)) for i in range(9)]


def in_a_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def composed() -> dict[str, Any]:
    """Launch the fused kernel twice; say what the second one was, and what else it asked of the driver."""
    make_current(0)
    launches, memory = CudaLaunches(), Memory(1 << 20)
    out, layout = Memory(2 * 64 * 224 * 224 * 3, "<f2", 2), BlockLayout(64, 224, 224, 3)
    views = launches.views(memory)
    calls: list[int] = []
    names = ("cuLaunchKernelEx", "cuCtxGetCurrent", "cuCtxGetDevice")
    for _ in range(2):
        calls = [DRIVER.fake_calls(), *(DRIVER.fake_count(name.encode()) for name in names)]
        launches.compose(views, layout, 256, out, STREAM)  # type: ignore[arg-type]
    after = [DRIVER.fake_calls(), *(DRIVER.fake_count(name.encode()) for name in names)]
    kernel = shell_cuda.pixels_kernel(3, False, False, 2)
    return {
        "seen": seen(),
        "expected": [0, STREAM.handle, 64, 10, 1, 224, memory.address, memory.address + 256, out.address],
        "calls": dict(zip(("all", *names), np.subtract(after, calls).tolist(), strict=True)),
        "loaded": sum(kernel._cache_hits.values()),
    }


def stamped(gpu: int | None) -> int:
    """Write marks in this thread, whose current GPU is `gpu` (None: not chosen); return where it was done."""
    if gpu is not None:
        make_current(gpu)
    launches = CudaLaunches()
    views, marks = launches.views(Memory(1 << 16)), launches.views(Memory(MARKS * (8 + WIDTH + 1) + 8))
    launches.stamp(views, marks, MARKS, WIDTH, STREAM)  # type: ignore[arg-type]
    launches.compare(views, marks, MARKS, WIDTH, STREAM)  # type: ignore[arg-type]
    return seen()[0]


def main() -> None:
    if sys.argv[1] == "compose":
        found: Any = in_a_thread(composed)
    elif sys.argv[1] == "gpus":
        found = [in_a_thread(lambda gpu=gpu: stamped(gpu)) for gpu in (1, 0, 1, None)]
        found += [stamped(gpu) for gpu in (0, 1, 0)]
    else:
        try:
            found = stamped(0)
        except Exception as error:  # noqa: BLE001 (whatever numba raises)
            found = getattr(error, "__notes__", [])
    print(json.dumps(found))


if __name__ == "__main__":
    main()

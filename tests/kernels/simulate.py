"""Runs launches in numba's CUDA simulator: ``python simulate.py launches.pickle out.pickle``.

A process of its own, because the simulator wants numba's compiler switched off from the start.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

os.environ.update(NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1")

import numpy as np


def main(source: str, target: str) -> None:
    """Run each launch, (layout, buffer, dtype, size) by name; store the outputs."""
    from ffcv_gpu.kernels import shell_cuda

    found = {}
    for name, (layout, buffer, dtype, size) in pickle.loads(Path(source).read_bytes()).items():
        out = np.zeros(size, dtype)
        numbers = shell_cuda.launch_numbers(layout, 0)
        views = (buffer, buffer.view(np.int64), buffer.view(np.int32), buffer.view(np.float32))
        for kernel, grid, threads in shell_cuda.launches(layout):
            kernel[grid, threads](*views, out, *numbers)
        found[name] = out
    found["sentinels"] = sentinels()
    Path(target).write_bytes(pickle.dumps(found))


def sentinels() -> object:
    """Stamp, spoil two marks, compare: the memory, and what is said of each mark."""
    from ffcv_gpu.kernels import shell_cuda

    memory = np.zeros(100, np.uint8)
    starts = np.array([3, 40, 60, 92])
    marks = np.random.default_rng(0).integers(1, 256, (4, 8), dtype=np.uint8)
    shell_cuda.write_kernel()[1, 64](memory, starts, marks.reshape(-1), np.int32(8))
    stamped = memory.copy()
    memory[47] ^= 1
    memory[60] ^= 128
    same = np.full(4, 7, np.uint8)
    shell_cuda.compare_kernel()[1, 64](memory, starts, marks.reshape(-1), same, np.int32(8))
    return stamped, starts, marks, same


if __name__ == "__main__":
    main(*sys.argv[1:])

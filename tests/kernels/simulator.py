"""numba's CUDA simulator as the GPU of `ffcv_gpu.device.cuda_launches`; for scripts, to be imported first.

The simulator wants numba's compiler switched off from the start, hence a process of its own.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

os.environ.update(NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1")

from numba import cuda
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from ffcv_gpu.device.cuda_launches import CudaLaunches
from ffcv_gpu.kernels import shell_cuda, shell_passes_cuda

__all__ = ["STREAM", "simulated_launches"]

STREAM = SimpleNamespace(handle=1)


def simulated_launches() -> CudaLaunches:
    """Return what launches kernels on a GPU, with numpy arrays as the GPU's memory."""
    cuda.as_cuda_array = as_cuda_array
    shell_cuda.interface_of = lambda array: getattr(array, "_ary", array).__array_interface__
    cuda.external_stream = lambda handle: handle
    # The simulator knows no `launch_bounds`.
    cuda.jit = lambda launch_bounds=None, _jit=cuda.jit, **options: _jit(**options)
    # A kernel of the simulator has one configuration, the last: none may be kept.
    shell_cuda.configured = shell_passes_cuda.configured = shell_cuda.configured.__wrapped__
    return CudaLaunches()


def as_cuda_array(array: Any, *, sync: bool) -> FakeCUDAArray:
    """Return `array` as the simulator's; asks for `sync=False`, because the other way waits."""
    assert not sync
    return array if isinstance(array, FakeCUDAArray) else FakeCUDAArray(array)

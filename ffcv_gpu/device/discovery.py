"""Finds usable GPUs and the library that owns their memory; keeps one `GpuDevice` per GPU."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from importlib.util import find_spec
from typing import Any

from ffcv_gpu.device.base import GpuOwner
from ffcv_gpu.device.gpu import GpuDevice
from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.native import driver

__all__ = ["current_gpu", "default_gpu", "gpu_device", "require_device"]

_gpus: weakref.WeakValueDictionary[int, GpuDevice] = weakref.WeakValueDictionary()
_lock = threading.Lock()
#: ids of processes that created a `GpuDevice`: this one, or those it was forked from
_users: set[int] = set()


def current_gpu() -> int:
    """Return the number of the GPU that the calling thread chose by `torch.cuda.set_device`, else 0.

    Imports nothing and does not initialise CUDA.
    """
    cuda = _torch_cuda()
    return int(cuda.current_device()) if cuda is not None and cuda.is_initialized() else 0


def default_gpu() -> str:
    """Return the name of this process's GPU: `current_gpu`, else that of LOCAL_RANK (set by torchrun).

    A LOCAL_RANK beyond the GPUs that this process sees counts them over again: many launchers show each
    process only its own GPU, as number 0, and so does MIG.
    """
    rank = os.environ.get("LOCAL_RANK", "")
    index = current_gpu() or (int(rank) if rank.isdecimal() else 0)
    if index == 0:
        return "cuda:0"
    name = f"cuda:{index}"
    try:
        return f"cuda:{index % max(_count(name), 1)}"
    except BackendUnavailable:
        return name  # `require_device` says what is missing


def require_device(name: str) -> None:
    """Check that pipelines can run on the device called `name` (``"cpu"``, ``"cuda:0"``).

    Raises
    ------
    BackendUnavailable
        If they cannot; says what is missing, and what to install or to change.
    """
    if name == "cpu":
        return
    if _users - {os.getpid()} or _torch_was_forked():
        raise BackendUnavailable(
            f"device {name!r} cannot be used: this process was forked from one that used a GPU, and CUDA "
            "does not survive a fork; start it by 'spawn' or 'forkserver'"
        )
    count = _count(name)
    index = int(name.partition(":")[2])
    if index >= count:
        raise BackendUnavailable(
            f"device {name!r} does not exist: this process sees {count} GPU(s); use 0 to {count - 1}"
        )
    if find_spec("numba_cuda") is None:
        raise BackendUnavailable(f"device {name!r} needs numba-cuda for its kernels; {_extra()}")


def gpu_device(name: str) -> GpuDevice:
    """Return the GPU called `name`, which `require_device` accepts; all loaders share one object per GPU."""
    index = int(name.partition(":")[2])
    with _lock:
        found = _gpus.get(index)
        if found is None:
            _users.add(os.getpid())
            found = _gpus[index] = _make(index)
        return found


def _make(index: int) -> GpuDevice:
    from ffcv_gpu.device.cuda_launches import CudaLaunches

    return GpuDevice(_owner(index), CudaLaunches())


def _owner(index: int) -> GpuOwner:
    if find_spec("torch"):
        from ffcv_gpu.device.torch_gpu import TorchGpu

        return TorchGpu(index)
    from ffcv_gpu.device.cupy_gpu import CupyGpu

    return CupyGpu(index)


def _torch_cuda() -> Any:
    """Return torch.cuda if torch is already imported, else None."""
    return getattr(sys.modules.get("torch"), "cuda", None)


def _torch_was_forked() -> bool:
    """Return whether this process was forked from one in which torch had used CUDA.

    torch then says only that there is no GPU.
    """
    forked = getattr(_torch_cuda(), "_is_in_bad_fork", None)  # private: without it, torch's words must do
    return forked is not None and bool(forked())


def _count(name: str) -> int:
    return _count_with_torch(name) if find_spec("torch") else _count_with_cupy(name)


def _count_with_torch(name: str) -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    reason = (
        "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no usable GPU"
    )
    raise BackendUnavailable(
        f"device {name!r} cannot be used: {reason} (torch {torch.__version__}); install a CUDA build of "
        'torch and a driver, or leave out ToDevice / use device="cpu"'
    )


def _count_with_cupy(name: str) -> int:
    if find_spec("cupy") is None:
        raise BackendUnavailable(
            f"device {name!r} needs PyTorch or CuPy to manage the GPU's memory, and neither is installed; "
            f'{_extra()}, or leave out ToDevice / use device="cpu"'
        )
    import cupy

    if not cupy.cuda.is_available():
        raise BackendUnavailable(
            f"device {name!r} cannot be used: CuPy {cupy.__version__} finds no usable GPU; install a driver, "
            'or leave out ToDevice / use device="cpu"'
        )
    return int(cupy.cuda.runtime.getDeviceCount())


def _extra() -> str:
    return f"pip install 'ffcv-gpu[{driver.install_extra() or 'cuda12'}]'"

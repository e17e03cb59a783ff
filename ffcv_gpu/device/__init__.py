"""Devices: who owns memory, streams and events. Everything above works with `device.base.Device`."""

from __future__ import annotations

from ffcv_gpu.device.base import Device, FusedLaunch, PassLaunch, PixelSource
from ffcv_gpu.device.cpu import CpuDevice
from ffcv_gpu.errors import BackendUnavailable

__all__ = [
    "CpuDevice",
    "Device",
    "FusedLaunch",
    "PassLaunch",
    "PixelSource",
    "make_device",
    "require_device",
    "runs_pipelines",
]


def require_device(name: str) -> None:
    """Raise `BackendUnavailable` if torch cannot use the device called `name` (``"cuda:0"``)."""
    if name == "cpu":
        return
    hint = 'install a CUDA build of torch and a driver, or leave out ToDevice / use device="cpu"'
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(f"device {name!r} needs PyTorch, which is not installed; {hint}") from error
    if not torch.cuda.is_available():
        reason = (
            "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no usable GPU"
        )
        raise BackendUnavailable(
            f"device {name!r} cannot be used: {reason} (torch {torch.__version__}); {hint}"
        )
    count, index = torch.cuda.device_count(), int(name.partition(":")[2])
    if index >= count:
        raise BackendUnavailable(
            f"device {name!r} does not exist: torch sees {count} GPU(s), 0 to {count - 1}"
        )


def runs_pipelines(name: str) -> bool:
    """True if batches can be made on the device called `name`; else they are made on the CPU and copied."""
    return name == "cpu"


def make_device(name: str, keep: int) -> Device:
    """Return the device called `name`, on which `runs_pipelines`; `keep` free buffers are kept per size."""
    if not runs_pipelines(name):
        raise BackendUnavailable(f"no pipeline can run on {name!r}")
    return CpuDevice(keep)

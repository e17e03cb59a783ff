"""Devices: they own memory, streams and events. All layers above use the protocols in `base`."""

from __future__ import annotations

from ffcv_gpu.device.base import FusedLaunch, PassLaunch, PixelSource
from ffcv_gpu.device.cpu import LEAST_LANE_BYTES, CpuDevice, lane_count, least_reading
from ffcv_gpu.device.discovery import current_gpu, default_gpu, gpu_device, require_device
from ffcv_gpu.device.gpu import GpuDevice

__all__ = [
    "LEAST_LANE_BYTES",
    "CpuDevice",
    "FusedLaunch",
    "GpuDevice",
    "PassLaunch",
    "PixelSource",
    "current_gpu",
    "default_gpu",
    "gpu_device",
    "lane_count",
    "least_reading",
    "require_device",
]

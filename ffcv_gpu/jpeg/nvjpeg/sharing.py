"""One shared backend per GPU and settings, because its states are expensive to create."""

from __future__ import annotations

import threading
from typing import Any, Protocol

from ffcv_gpu.device.base import GpuMemory
from ffcv_gpu.jpeg.nvjpeg.backend import NvjpegBackend

__all__ = ["Sharing", "shared_backend"]

_lock = threading.Lock()


class Sharing(GpuMemory, Protocol):
    """A GPU that keeps the backends created for it as long as it exists."""

    @property
    def slots(self) -> int:
        """Maximum number of batches in flight."""

    @property
    def backends(self) -> dict[Any, Any]:
        """JPEG backends by their settings."""


def shared_backend(device: Sharing, *, batch_size: int, paranoid: bool, dct: str) -> NvjpegBackend:
    """Return the GPU's backend with these settings, created on first use; see `NvjpegBackend`.

    Raises
    ------
    BackendUnavailable
        If there is no nvJPEG, or it cannot use the GPU.
    """
    key = ("nvjpeg", batch_size, paranoid, dct)
    with _lock:
        found: NvjpegBackend | None = device.backends.get(key)
        if found is None:
            found = NvjpegBackend(
                device, batch_size=batch_size, slots=device.slots, sentinel=paranoid, dct=dct
            )
            device.backends[key] = found
    return found

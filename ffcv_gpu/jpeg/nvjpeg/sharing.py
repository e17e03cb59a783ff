"""One backend per GPU and settings, shared by all who use it, because its states are expensive to create."""

from __future__ import annotations

import threading
from collections.abc import MutableMapping
from typing import Any, Protocol

from ffcv_gpu.device.base import GpuMemory
from ffcv_gpu.jpeg.nvjpeg.backend import NvjpegBackend

__all__ = ["Sharing", "shared_backend"]

_lock = threading.Lock()


class Sharing(GpuMemory, Protocol):
    """A GPU that knows the backends created for it."""

    @property
    def slots(self) -> int:
        """Maximum number of batches in flight."""

    @property
    def backends(self) -> MutableMapping[Any, Any]:
        """JPEG backends in use, by their settings; weak references."""


def shared_backend(device: Sharing, *, batch_size: int, paranoid: bool, dct: str) -> NvjpegBackend:
    """Return the GPU's backend with these settings, created on first use; see `NvjpegBackend`.

    It exists as long as a caller keeps it; its states are kept for the next backend. (Else those of each
    batch size that a process ever used would keep memory of the GPU.)

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

"""One GPU as the experiments need it: memory, streams, events, and work that keeps it busy.

`benchmarks.gpu.torch_device` is a real one, `benchmarks.gpu.host_device` has the same methods without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.peers import MakePeer
from ffcv_gpu.native.nvjpeg_library import NvjpegLibrary

__all__ = ["Bytes", "Gpu", "Memory"]

Bytes = npt.NDArray[np.uint8]


class Memory(Protocol):
    """Bytes on the GPU."""

    address: int
    size: int


class Gpu(Protocol):
    """What an experiment may ask of a GPU. Streams and events are the owner's own objects."""

    #: whether there is no GPU behind it
    rehearsal: bool

    @property
    def name(self) -> str:
        """What ffcv_gpu calls it."""

    def facts(self) -> dict[str, Any]: ...
    def library(self) -> NvjpegLibrary: ...
    def use(self) -> None:
        """Make it the calling thread's GPU."""

    def memory(self, size: int) -> Memory: ...
    def pinned(self, size: int) -> Bytes: ...
    def pageable(self, size: int) -> Bytes: ...
    def stream(self) -> Any: ...
    def handle(self, stream: Any) -> int:
        """Return its ``cudaStream_t``."""

    def current(self, stream: Any) -> Any:
        """Make a stream the thread's current one, as a context."""

    def event(self) -> Any:
        """Return one whose waits sleep."""

    def record(self, event: Any, stream: Any) -> None: ...
    def wait(self, stream: Any, event: Any) -> None:
        """Let later work of a stream wait for an event; the host does not."""

    def await_event(self, event: Any) -> None:
        """Let the host wait for an event."""

    def synchronize(self, stream: Any = None) -> None:
        """Let the host wait for a stream, or for everything."""

    def fill(self, memory: Memory, value: int, stream: Any = None) -> None: ...
    def copy(self, source: Memory, target: Memory, stream: Any) -> None: ...
    def upload(self, source: Bytes, target: Memory, stream: Any) -> None: ...
    def download(self, memory: Memory) -> Bytes: ...
    def equal(self, one: Memory, other: Memory) -> bool: ...
    def host(self, array: Any) -> npt.NDArray[Any]:
        """Return a tensor or array that ffcv_gpu gave, as numpy, when the current stream is there."""

    def clone(self, array: Any) -> Any:
        """Copy such a tensor in the order of the current stream; the host does not wait."""

    def spin(self, milliseconds: float, stream: Any) -> None:
        """Keep a stream (None: the current one) busy."""

    def load(self) -> Callable[[], None]:
        """Return a step of work like training's (matrix products), on a stream of its own, with a wait."""

    def training(self, network: str, batch_size: int) -> Callable[[Any], None]:
        """Return a step of torchvision's `network` for images (N, 3, H, W) in float16.

        Raises `ImportError` without torchvision.
        """

    def images(self, batch_size: int, side: int) -> Any:
        """Return such images."""

    def peers(self, part: str) -> Mapping[str, MakePeer]:
        """Return other libraries' decoders and pipelines for this device, by name: those of one part.

        Each is made for some batches of files; ImportError, OSError or RuntimeError say that it is not to be
        had here.
        """

    def free_bytes(self) -> int: ...
    def broken(self) -> str:
        """Say what is wrong if an earlier error has left the GPU unusable for this process, else ""."""

    def apart(self, one: Sequence[Any], other: Sequence[Any]) -> tuple[int, float]:
        """Return the greatest and the mean difference of uint8 arrays, pairs of equal shape."""

    def context_waits(self, how: str) -> int:
        """Let the driver's waits of this process "auto", "spin", "yield" or "block"; returns its status."""

    def activities(self, work: Callable[[], None]) -> dict[str, dict[str, tuple[int, float]]]:
        """Run `work`; return ``calls`` of the CUDA runtime and ``kernels`` by name: count, milliseconds."""

"""The interface to a GPU that experiments use: memory, streams, events, and work that keeps it busy.

`benchmarks.gpu.torch_device` implements it with a GPU, `benchmarks.gpu.host_device` without one.
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
    """Memory on the GPU."""

    address: int
    size: int


class Gpu(Protocol):
    """What an experiment may do with a GPU. Streams and events are objects of the implementation."""

    #: whether it is an imitation without a GPU
    rehearsal: bool

    @property
    def name(self) -> str:
        """Its name in ffcv_gpu, such as "cuda:0"."""

    def facts(self) -> dict[str, Any]: ...
    def library(self) -> NvjpegLibrary: ...
    def use(self) -> None:
        """Make it the current GPU of the calling thread."""

    def memory(self, size: int) -> Memory: ...
    def pinned(self, size: int) -> Bytes: ...
    def pageable(self, size: int) -> Bytes: ...
    def stream(self) -> Any: ...
    def handle(self, stream: Any) -> int:
        """Return the ``cudaStream_t`` of a stream."""

    def current(self, stream: Any) -> Any:
        """Return a context in which a stream is the thread's current one."""

    def event(self) -> Any:
        """Return an event that the host can wait for without spinning."""

    def record(self, event: Any, stream: Any) -> None: ...
    def wait(self, stream: Any, event: Any) -> None:
        """Let later work on a stream wait for an event, without the host."""

    def await_event(self, event: Any) -> None:
        """Wait on the host for an event."""

    def synchronize(self, stream: Any = None) -> None:
        """Wait on the host for a stream, or for everything."""

    def fill(self, memory: Memory, value: int, stream: Any = None) -> None: ...
    def copy(self, source: Memory, target: Memory, stream: Any) -> None: ...
    def upload(self, source: Bytes, target: Memory, stream: Any) -> None: ...
    def download(self, memory: Memory) -> Bytes: ...
    def equal(self, one: Memory, other: Memory) -> bool: ...
    def host(self, array: Any) -> npt.NDArray[Any]:
        """Return a tensor or array of ffcv_gpu as NumPy, after waiting for the current stream."""

    def clone(self, array: Any) -> Any:
        """Copy such a tensor on the current stream; the host does not wait."""

    def spin(self, milliseconds: float, stream: Any) -> None:
        """Keep a stream busy (None: the current one)."""

    def span(self, work: Callable[[], None], stream: int) -> float:
        """Return the seconds that a stream (``cudaStream_t``) needs for what `work` submits to it.

        The stream is busy until all of it is submitted, so the host's time for that does not count.
        """

    def load(self) -> Callable[[], None]:
        """Return a function that runs matrix products, as in training, on a separate stream, and waits."""

    def training(self, network: str, batch_size: int) -> Callable[[Any], None]:
        """Return a training step of torchvision's `network` for float16 images (N, 3, H, W).

        Raises `ImportError` without torchvision.
        """

    def images(self, batch_size: int, side: int) -> Any:
        """Return images for such a step."""

    def peers(self, part: str) -> Mapping[str, MakePeer]:
        """Return functions that make other libraries' decoders and pipelines, by name: those of one part.

        Each takes batches of files, and raises ImportError, OSError or RuntimeError if it is unavailable.
        """

    def free_bytes(self) -> int: ...
    def broken(self) -> str:
        """Return an error message if the GPU has become unusable for this process, else ""."""

    def apart(self, one: Sequence[Any], other: Sequence[Any]) -> tuple[int, float]:
        """Return the max and mean difference over pairs of uint8 arrays of equal shape."""

    def context_waits(self, how: str) -> int:
        """Set the driver's waits of this process ("auto", "spin", "yield", "block"); returns the status."""

    def activities(self, work: Callable[[], None]) -> dict[str, dict[str, tuple[int, float]]]:
        """Run `work`; return ``calls`` of the CUDA runtime and ``kernels``: name -> (count, milliseconds)."""

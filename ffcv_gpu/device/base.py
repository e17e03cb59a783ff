"""What a launch on any device takes, and the protocols of GPUs: memory, streams, events and kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.steps import IntArray

__all__ = [
    "FusedLaunch",
    "GpuEvent",
    "GpuLaunches",
    "GpuMemory",
    "GpuOwner",
    "GpuStream",
    "PassLaunch",
    "PixelSource",
]


ScratchMemory = Callable[[int], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class FusedLaunch:
    """The parameters of one fused launch over n samples, as arrays in host memory.

    Attributes
    ----------
    boxes, geometry : int32 (n, 4)
        Crops in source pixels; output position -> frame position (see `plan.StagePlan`).
    params : float32 (n, P)
    ops : int32 (K, 2)
    fills : uint32 (K, 4)
    late_from : int
        See `plan.StageProgram`.
    table : uint8, uint16 or uint32, (channels, 256)
        Bits of the output value for each 8-bit value.
    strides : int64 (4,)
        Of the output, in elements: sample, row, column, channel.
    frame : (int, int)
        Output height and width in pixels.
    resample : int
        A filter of `kernels.codes`.
    mean_columns : tuple of int
        Columns of `params` to fill before the launch with the mean grey value of each source image. If there
        are any, the sources are finished images of size `frame`, contiguous in ``pixels.decoded``.
    """

    boxes: npt.NDArray[np.int32]
    geometry: npt.NDArray[np.int32]
    params: npt.NDArray[np.float32]
    ops: npt.NDArray[np.int32]
    fills: npt.NDArray[np.uint32]
    late_from: int
    table: npt.NDArray[np.unsignedinteger]
    strides: npt.NDArray[np.int64]
    frame: tuple[int, int]
    resample: int
    mean_columns: tuple[int, ...] = ()


@dataclass(frozen=True)
class PassLaunch:
    """The parameters of one launch on n finished images, as arrays in host memory.

    Attributes
    ----------
    kernel : int
        Which launch: a code of `kernels.pass_codes`, which says what the arrays mean.
    params : float32 (n, P)
    constants : tuple of arrays
        The same for all samples and batches.
    shape : (int, int, int)
        Height, width and channels of an output image and (except for PASS_PAD) of a source image.
    """

    kernel: int
    params: npt.NDArray[np.float32]
    constants: tuple[npt.NDArray[Any], ...]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class PixelSource:
    """Images of n samples: `table` (int64 (n, 8), columns of `kernels.codes`) points into two memories.

    `decoded` holds the output of a JPEG backend, `stored` raw pixels as they are in the file. Both are uint8
    memory of the device, read-only to kernels.
    """

    table: npt.NDArray[np.int64]
    decoded: Any
    stored: Any


class GpuEvent(Protocol):
    """An event in a stream, without timing; waiting for it uses no CPU time (cudaEventBlockingSync)."""

    def synchronize(self) -> None:
        """Block until its most recent record is reached; return at once if it was never recorded.

        Raises the driver's error if an earlier call has left the GPU unusable.
        """


class GpuStream(Protocol):
    """A non-blocking stream."""

    @property
    def handle(self) -> int:
        """Its ``cudaStream_t``."""

    def record(self, event: Any) -> None:
        """Complete `event`, from `GpuMemory.new_event`, when all work submitted so far is done."""

    def wait(self, event: Any) -> None:
        """Let work submitted from now on wait for the most recent record of `event`; returns at once."""


class _Gpu(Protocol):
    """What `GpuMemory` and `GpuOwner` have in common; *memory* is of the type that `device_bytes` returns."""

    @property
    def index(self) -> int:
        """The GPU's number."""

    def make_current(self) -> None:
        """Make the GPU the calling thread's current device; only for our own threads.

        Handles belong to the device that is current when they are created.
        """

    def device_bytes(self, size_bytes: int) -> Any:
        """Return uninitialised memory, owned by the caller; raises `MemoryError` if there is not enough."""

    def address(self, memory: Any) -> int:
        """Return the device address of the first byte."""

    def pinned(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Return uint8 (size_bytes,) of pinned host memory; raises `MemoryError` if there is not enough."""

    def new_stream(self) -> GpuStream:
        """Create a non-blocking stream."""

    def new_event(self) -> GpuEvent:
        """Create an event without timing, for which waiting uses no CPU time."""

    def upload(self, source: npt.NDArray[np.uint8], memory: Any, start: int, stream: GpuStream) -> None:
        """Copy pinned bytes to ``memory[start:]`` in the order of `stream`; returns at once."""


class GpuMemory(_Gpu, Protocol):
    """Memory, streams and events of one GPU, as a decoder needs them. Its memory are *arenas*."""

    def wait_until_free(self, arena: Any) -> None:
        """Block until all submitted work that uses `arena`, on any stream, is done.

        The host waits, because a JPEG engine does not wait for its stream before it overwrites its output,
        so ordering streams is not enough (seen on H100 by others).
        """

    def release_unused(self) -> None:
        """Return memory of the GPU that its owner keeps unused to the driver; waits for the GPU."""

    def use_after(self, event: Any) -> None:
        """Count the work before `event` among what uses each arena in use now; returns at once."""

    def stamp(self, arena: Any, starts: IntArray, marks: npt.NDArray[np.uint8], stream: GpuStream) -> None:
        """Write row i of `marks`, uint8 (n, width), to ``arena[starts[i]:]`` in the order of `stream`."""

    def unchanged(
        self, arena: Any, starts: IntArray, marks: npt.NDArray[np.uint8], stream: GpuStream
    ) -> npt.NDArray[np.bool_]:
        """Return for each row of `marks` whether it is still at ``arena[starts[i]:]``, bool (n,).

        Waits for `stream`.
        """


class GpuOwner(_Gpu, Protocol):
    """The library that owns one GPU's memory: torch, or CuPy if torch is not installed. Contains no policy.

    Its memory is a contiguous uint8 array (bytes,) of the library. Work queued on the current stream may
    still use what `device_bytes` returns, because memory dropped there is reused.
    """

    @property
    def container(self) -> str:
        """The type of batches: ``"tensor"`` (torch) or ``"cupy"``; see `ffcv_gpu.steps.ValueSpec`."""

    def entered(self) -> AbstractContextManager[Any]:
        """Make the GPU current inside a with block; for the user's threads, whose device is restored."""

    def total_bytes(self) -> int:
        """Return the size of the GPU's memory."""

    def release_unused(self) -> None:
        """Return memory that nothing uses to the driver."""

    def download(self, memory: Any, start: int, target: npt.NDArray[np.uint8], stream: GpuStream) -> None:
        """Copy ``memory[start:]`` to pinned bytes in the order of `stream`; returns at once."""

    def working_on(self, stream: GpuStream) -> AbstractContextManager[Any]:
        """Make the GPU and `stream` current inside a with block: for `empty`, `copy` and users' modules."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an uninitialised array; its memory is reused in the order of the current stream."""

    def copy(self, memory: Any, start: int, out: Any) -> None:
        """Fill the contiguous array `out` from ``memory[start:]``, in the current stream."""

    def permuted(self, array: Any) -> Any:
        """Return (N, H, W, C) as a view of shape (N, C, H, W)."""

    def follow_user(self, stream: GpuStream) -> None:
        """Let later work of `stream` wait for what the calling thread's current stream was given so far."""

    def hand_over(self, arrays: Sequence[Any], ready: GpuEvent) -> None:
        """Pass arrays to the calling thread's current stream, which waits for `ready`; the host does not.

        Once they are dropped, their memory is not reused before the work submitted to that stream is done.
        """


class GpuLaunches(Protocol):
    """One GPU's kernels, run by numba (by the CPU's kernels in tests), asynchronously on `stream`."""

    def views(self, memory: Any) -> Any:
        """Return the other methods' `views` argument for memory of `GpuOwner.device_bytes`; call it once."""

    def compose(self, views: Any, block: Any, start: int, out: Any, stream: GpuStream) -> None:
        """Run one fused launch.

        Parameters
        ----------
        views
            Views of the memory that holds the launch block and all pixels.
        block : ffcv_gpu.kernels.block.BlockLayout
            The layout of the block.
        start : int
            Offset of the block in the memory, bytes.
        out : array of `GpuOwner`, contiguous
            As many samples as the block has.
        stream : GpuStream
        """

    def transform(
        self, views: Any, block: Any, start: int, source: int, target: int, scratch: int, stream: GpuStream
    ) -> None:
        """Run one launch on finished images; see `ffcv_gpu.kernels.shell_passes_cuda.transform`.

        `block` is an `ffcv_gpu.kernels.pass_block.PassLayout`; the other integers are offsets in the memory.
        """

    def measure(
        self, views: Any, block: Any, start: int, columns: tuple[int, ...], source: int, stream: GpuStream
    ) -> None:
        """Write mean grey values to the parameters of a fused launch; see `shell_passes_cuda.measure`."""

    def stamp(self, views: Any, marks: Any, count: int, width: int, stream: GpuStream) -> None:
        """Write marks to memory.

        Parameters
        ----------
        views
            Views of the memory to write to.
        marks
            Views of memory that holds, contiguously: int64 (count,) offsets in bytes, uint8 (count, width)
            marks, and uint8 (count,) for results.
        count, width : int
        stream : GpuStream
        """

    def compare(self, views: Any, marks: Any, count: int, width: int, stream: GpuStream) -> None:
        """Write to the results whether each mark is still at its offset, 1 or 0."""

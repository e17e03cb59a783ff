"""What the engine asks of a device: memory for outputs, how to split a batch, and the finished batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.steps import IntArray, ValueSpec

__all__ = ["Device", "FusedLaunch", "PixelSource"]


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


@dataclass(frozen=True)
class PixelSource:
    """Images of n samples: `table` (int64 (n, 8), columns of `kernels.codes`) points into two memories.

    `decoded` holds what a JPEG backend wrote, `stored` raw pixels as they lie in the file; both are the
    device's, uint8, and read-only to kernels.
    """

    table: npt.NDArray[np.int64]
    decoded: Any
    stored: Any


class Device(Protocol):
    """A place where batches are made; the only one who knows who owns its memory."""

    @property
    def name(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""

    def lanes(self, decoded_bytes: IntArray, workers: int) -> list[tuple[int, int]]:
        """Split a batch into ranges [lo, hi) that are worked on independently.

        `decoded_bytes` (N,) is what each sample needs while it is decoded.
        """

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return uninitialised memory for one output of a batch.

        It belongs to the batch and is used again only when nothing refers to it any more.
        """

    def trim(self) -> None:
        """Give free output memory back to the system: the outputs' sizes have changed."""

    def scratch(self, size_bytes: int) -> Any:
        """Return uint8 (size_bytes,) of uninitialised memory for decoded pixels; the caller keeps it."""

    def compose(self, launch: FusedLaunch, pixels: PixelSource, out: Any, scratch: ScratchMemory) -> None:
        """Make the outputs of n samples in one fused launch.

        Parameters
        ----------
        launch : FusedLaunch
        pixels : PixelSource
        out : memory from `allocate`, n samples of it, contiguous
        scratch : callable
            Lends float32 memory by ``scratch(count)``; the caller's, reused for the next launch.
        """

    def gather(self, stored: Any, offsets: IntArray, lengths: IntArray, out: Any) -> None:
        """Copy payloads out of `stored` into the rows of `out`, n samples; short ones end in zeros."""

    def finish(self, memory: Any, spec: ValueSpec) -> Any:
        """Return `memory` as the array or tensor that `spec` describes; copies nothing."""

"""The CPU device: batches are produced in host memory, in the calling threads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device.base import FusedLaunch, PassLaunch, PixelSource, ScratchMemory
from ffcv_gpu.device.buffer_pool import BufferPool
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.kernels.codes import scratch_size
from ffcv_gpu.kernels.pass_codes import PASS_BLEND, PASS_BLUR, PASS_PAD, PASS_REMAP, PASS_SHARPEN, PASS_WARP
from ffcv_gpu.steps import IntArray, ValueSpec

__all__ = ["LEAST_LANE_BYTES", "CpuDevice", "lane_count", "least_reading"]

#: bytes decoded per lane: small enough that pixels are still in cache when they are resampled (8 MB and
#: more cost 5-10 % on photos of 500 x 375 on one EPYC, nothing on an older one), large enough for two workers
LANE_BYTES = 4 << 20
#: with fewer lanes per worker than this, the last lanes leave cores idle
LANES_PER_WORKER = 4
#: But none smaller than this: a lane of pixels in memory takes 50 microseconds of Python.
LEAST_LANE_BYTES = 256 << 10
#: A lane that reads and decodes takes 250, and only one thread at a time runs Python: the more workers there
#: are, the longer each must do without it. So this much for each worker, up to a limit for memory's sake.
#: Where decoding and resampling are sleeps (threads.json), 16 workers reach 0.7 of the sleeps' own speed, and
#: with lanes of 4 MB, 0.30.
READING_BYTES_PER_WORKER = 2 << 20
MOST_READING_BYTES = 16 << 20


class CpuDevice:
    """Produces batches in host memory, in the loader's threads.

    Parameters
    ----------
    keep : int
        Maximum number of free output buffers kept per size.
    """

    def __init__(self, keep: int) -> None:
        self.pool = BufferPool(keep)

    @property
    def name(self) -> str:
        """``"cpu"``."""
        return "cpu"

    def lanes(self, decoded_bytes: IntArray, workers: int, least: int) -> list[tuple[int, int]]:
        """Split a batch into ranges [lo, hi) that are processed independently.

        `decoded_bytes` (N,) is the approximate work of each sample, as bytes of pixels to decode; for the
        other arguments, and how many lanes there are, see `lane_count`.
        """
        total = int(decoded_bytes.sum())
        lanes = lane_count(total, workers, least)
        if lanes <= 1:
            return [(0, decoded_bytes.size)]
        ends = np.cumsum(decoded_bytes)
        cuts = np.searchsorted(ends, np.arange(1, lanes) * (total / lanes), side="left") + 1
        edges = np.unique(np.concatenate([[0], cuts, [decoded_bytes.size]]))
        return list(pairwise(edges.tolist()))

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return uninitialised memory for one output of a batch, from the pool.

        It belongs to the batch and is reused only when nothing refers to it any more.
        """
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self.pool.take(size).view(dtype).reshape(shape)

    def trim(self) -> None:
        """Release the pool's free buffers to the system: the outputs' sizes have changed."""
        self.pool.trim()

    def scratch(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Return uint8 (size_bytes,) of uninitialised memory for decoded pixels, owned by the caller."""
        return np.empty(size_bytes, np.uint8)

    def compose(
        self, launch: FusedLaunch, pixels: PixelSource, out: npt.NDArray[Any], scratch: ScratchMemory
    ) -> None:
        """Compute the outputs of n samples in one fused launch, in this thread, without the GIL.

        Parameters
        ----------
        launch : FusedLaunch
        pixels : PixelSource
        out : memory from `allocate`, n contiguous samples of it
        scratch : callable
            ``scratch(count)`` lends float32 memory of the caller, which is reused for the next launch.
        """
        from ffcv_gpu.kernels.shell_cpu import compose

        height, width = launch.frame
        tallest, widest = launch.boxes[:, 2:].max(axis=0).tolist()
        compose(
            read_only(pixels.decoded),
            read_only(pixels.stored),
            pixels.table,
            launch.boxes,
            launch.geometry,
            self._measured(launch, pixels),
            launch.ops,
            launch.fills,
            launch.late_from,
            launch.table,
            out.reshape(-1),
            launch.strides,
            height,
            width,
            launch.resample,
            scratch(scratch_size(tallest, widest, height, width, launch.table.shape[0])),
            0,
            len(launch.boxes),
        )

    def _measured(self, launch: FusedLaunch, pixels: PixelSource) -> npt.NDArray[np.float32]:
        """Return the launch's parameters with the sources' mean grey values in `mean_columns`."""
        if not launch.mean_columns:
            return launch.params
        from ffcv_gpu.kernels.passes_cpu import mean_grey

        params, count = launch.params.copy(), len(launch.boxes)  # the plan's arrays must not change
        shape = (count, *launch.frame, launch.table.shape[0])
        images = pixels.decoded[: int(np.prod(shape))].reshape(shape)
        for column in launch.mean_columns:
            mean_grey(images, params, column, 0, count)
        return params

    def transform(
        self, launch: PassLaunch, pixels: PixelSource, out: npt.NDArray[np.uint8], scratch: ScratchMemory
    ) -> None:
        """Compute n uint8 images (H, W, C) from n images, in one launch, in this thread, without the GIL.

        Parameters
        ----------
        launch : PassLaunch
        pixels : PixelSource
            Except for PASS_PAD, n images of the output's size, contiguous in ``pixels.decoded``.
        out : memory from `scratch`, n images; for a launch in `IN_PLACE`, the memory of the source
        scratch : callable
            As for `compose`.
        """
        from ffcv_gpu.kernels import passes_cpu as cpu

        count, params, (_, width, channels) = len(launch.params), launch.params, launch.shape
        if launch.kernel == PASS_PAD:
            cpu.pad(read_only(pixels.decoded), read_only(pixels.stored), pixels.table, out, 0, count)
            return
        images = pixels.decoded[: out.size].reshape(out.shape)
        if launch.kernel == PASS_BLUR:
            floats = scratch(cpu.blur_scratch(width, channels, params.shape[1]))
            cpu.blur(images, params, out, floats, 0, count)
        elif launch.kernel == PASS_SHARPEN:
            cpu.sharpen(images, params, out, 0, count)
        elif launch.kernel == PASS_WARP:
            cpu.warp(images, params, *launch.constants, out, 0, count)
        elif launch.kernel == PASS_REMAP:
            cpu.remap(out, params, scratch(cpu.remap_scratch(channels)), 0, count)
        elif launch.kernel == PASS_BLEND:
            cpu.blend(out, params, *launch.constants, 0, count)
        else:
            raise PipelineError(f"unknown launch code {launch.kernel}; use one of kernels.pass_codes")

    def gather(
        self, stored: npt.NDArray[np.uint8], offsets: IntArray, lengths: IntArray, out: npt.NDArray[Any]
    ) -> None:
        """Copy payloads from `stored` to the rows of `out`, n samples; short ones are padded with zeros.

        In this thread, without the GIL.
        """
        from ffcv_gpu.kernels.shell_cpu import gather

        rows = out.reshape(len(out), -1).view(np.uint8)
        gather(read_only(stored), offsets, lengths, rows, 0, len(out))

    def finish(self, memory: npt.NDArray[Any], spec: ValueSpec) -> Any:
        """Return `memory` as the array or tensor that `spec` describes; copies nothing."""
        if spec.container == "numpy":
            batch: Any = memory if memory.dtype == spec.dtype else memory.view(spec.dtype)
        else:
            batch = as_tensor(memory, spec.dtype)
        if spec.layout == "CHW" and spec.channels_last:
            batch = batch.permute(0, 3, 1, 2)
        return batch


def lane_count(decoded_bytes: int, workers: int, least: int) -> int:
    """Return into how many lanes a batch is split.

    Lanes have about `LANE_BYTES`, and there are at least `LANES_PER_WORKER` per worker; fewer if they had
    less than `least`, or if there is one worker.

    Parameters
    ----------
    decoded_bytes : int
        The work of the batch.
    workers : int
        Threads that share the batch.
    least : int
        `LEAST_LANE_BYTES`, or `least_reading` where lanes read and decode.
    """
    shared = min(LANES_PER_WORKER * workers, decoded_bytes // least) if workers > 1 else 1
    return max(-(-decoded_bytes // max(LANE_BYTES, least)), shared, 1)


def least_reading(workers: int) -> int:
    """Return the least work of a lane that reads and decodes, if there are `workers` threads, in bytes."""
    return min(READING_BYTES_PER_WORKER * workers, MOST_READING_BYTES)


def as_tensor(memory: npt.NDArray[Any], dtype: str | None) -> Any:
    """Return a torch tensor that shares `memory` and interprets its bits as `dtype`."""
    import torch

    if dtype == "bfloat16":
        return torch.from_numpy(memory.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(memory if memory.dtype == dtype else memory.view(dtype))


def read_only(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a read-only view: if all sources are read-only, the kernel is compiled only once."""
    view = array.view()
    view.flags.writeable = False
    return view

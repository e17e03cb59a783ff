"""The kernels on a real GPU, launched by numba on the stream that is passed. Contains no policy.

It can run only on a GPU, and is kept short enough to verify by reading.
"""

from __future__ import annotations

from typing import Any

from ffcv_gpu.device.base import GpuStream
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.pass_block import PassLayout

__all__ = ["CudaLaunches"]


class CudaLaunches:
    """See `ffcv_gpu.device.base.GpuLaunches`."""

    def views(self, memory: Any) -> Any:
        """Return numba arrays that share an arena's memory."""
        from ffcv_gpu.kernels.shell_cuda import views

        return views(memory)

    def compose(self, views: Any, block: BlockLayout, start: int, out: Any, stream: GpuStream) -> None:
        """Run one fused launch."""
        from ffcv_gpu.kernels.shell_cuda import compose

        # torch's bfloat16 has no array interface; the kernel writes bits anyway
        bits = out.view(_int16()) if str(out.dtype) == "torch.bfloat16" else out
        compose(views, bits, block, start, stream=stream.handle)

    def transform(
        self,
        views: Any,
        block: PassLayout,
        start: int,
        source: int,
        target: int,
        scratch: int,
        stream: GpuStream,
    ) -> None:
        """Run one launch on finished images."""
        from ffcv_gpu.kernels.shell_passes_cuda import transform

        transform(views, block, start, source, target, scratch, stream=stream.handle)

    def measure(
        self,
        views: Any,
        block: BlockLayout,
        start: int,
        columns: tuple[int, ...],
        source: int,
        stream: GpuStream,
    ) -> None:
        """Write mean grey values to the parameters of a fused launch."""
        from ffcv_gpu.kernels.shell_passes_cuda import measure

        measure(views, block, start, columns, source, stream=stream.handle)

    def stamp(self, views: Any, marks: Any, count: int, width: int, stream: GpuStream) -> None:
        """Write marks to memory."""
        from ffcv_gpu.kernels.shell_cuda import stamp

        starts, rows, _ = self._parts(marks, count, width)
        stamp(views, starts, rows, stream=stream.handle)

    def compare(self, views: Any, marks: Any, count: int, width: int, stream: GpuStream) -> None:
        """Write to the results whether each mark is still at its offset."""
        from ffcv_gpu.kernels.shell_cuda import unchanged

        starts, rows, answers = self._parts(marks, count, width)
        unchanged(views, starts, rows, answers, stream=stream.handle)

    def _parts(self, marks: Any, count: int, width: int) -> tuple[Any, Any, Any]:
        """Return the offsets, the marks and the array for results."""
        end = 8 * count + count * width
        rows = marks.pixels[8 * count : end].reshape(count, width)
        return marks.longs[:count], rows, marks.pixels[end : end + count]


def _int16() -> Any:
    import torch

    return torch.int16

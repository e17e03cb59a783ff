"""The kernels on a real GPU, launched by numba on whatever stream they are given. Decides nothing.

Only a GPU can run this file; what it does is little enough to be read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device.base import GpuStream
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.steps import IntArray

__all__ = ["CudaLaunches"]


class CudaLaunches:
    """See `ffcv_gpu.device.base.GpuLaunches`."""

    def views(self, memory: Any) -> Any:
        """Return numba's arrays over an arena."""
        from ffcv_gpu.kernels.shell_cuda import views

        return views(memory)

    def compose(self, views: Any, block: BlockLayout, start: int, out: Any, stream: GpuStream) -> None:
        """Run one fused launch."""
        from ffcv_gpu.kernels.shell_cuda import compose

        compose(views, out, block, start, stream=stream.handle)

    def stamp(self, views: Any, starts: IntArray, marks: npt.NDArray[np.uint8], stream: GpuStream) -> None:
        """Write row i of `marks` to ``arena[starts[i]:]``."""
        from ffcv_gpu.kernels.shell_cuda import stamp

        stamp(views, starts, marks, stream=stream.handle)

    def unchanged(
        self, views: Any, starts: IntArray, marks: npt.NDArray[np.uint8], stream: GpuStream
    ) -> npt.NDArray[np.bool_]:
        """Say for each row of `marks` whether it still stands there."""
        from ffcv_gpu.kernels.shell_cuda import unchanged

        found: npt.NDArray[np.bool_] = unchanged(views, starts, marks, stream=stream.handle)
        return found

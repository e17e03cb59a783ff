"""The block of a launch on finished images: all its data except the images, in one range of bytes.

The counterpart of `block` for the launches of `pass_codes`. Imports numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ffcv_gpu.kernels.block import aligned
from ffcv_gpu.kernels.codes import TABLE_COLUMNS
from ffcv_gpu.kernels.pass_codes import PASS_BLUR, PASS_PAD

__all__ = ["PassBlock", "PassLayout"]


class PassBlock(NamedTuple):
    """The parts of a block, as views of its bytes.

    `table` is the pixel table of PASS_PAD, else (0, 8); `params` float32 (N, P); `constants` flat arrays.
    """

    table: npt.NDArray[np.int64]
    params: npt.NDArray[np.float32]
    constants: tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True)
class PassLayout:
    """The layout of a block.

    Attributes
    ----------
    count : int
        Number of samples.
    kernel : int
        A launch of `pass_codes`.
    shape : (int, int, int)
        Height, width and channels of an output image.
    params : int
        Number of parameter columns.
    constants : tuple of (str, int)
        Dtype and number of values of each array that all samples share.
    """

    count: int
    kernel: int
    shape: tuple[int, int, int]
    params: int = 0
    constants: tuple[tuple[str, int], ...] = ()

    @property
    def size_bytes(self) -> int:
        """Size of a block."""
        *_, (start, dtype, shape) = self._parts()
        return start + aligned(prod(shape) * dtype.itemsize)

    @property
    def scratch_bytes(self) -> int:
        """Size of the memory that the launch needs besides its images."""
        return 4 * self.count * prod(self.shape) if self.kernel == PASS_BLUR else 0

    @property
    def offsets(self) -> tuple[int, ...]:
        """First byte of the table, of the parameters, and of each constant."""
        return tuple(start for start, _, _ in self._parts())

    def _parts(self) -> Iterator[tuple[int, np.dtype[Any], tuple[int, ...]]]:
        shapes: list[tuple[Any, tuple[int, ...]]] = [
            (np.int64, (self.count if self.kernel == PASS_PAD else 0, TABLE_COLUMNS)),
            (np.float32, (self.count, self.params)),
            *((dtype, (size,)) for dtype, size in self.constants),
        ]
        start = 0
        for kind, shape in shapes:
            dtype = np.dtype(kind)
            yield start, dtype, shape
            start += aligned(prod(shape) * dtype.itemsize)

    def read(self, block: npt.NDArray[np.uint8]) -> PassBlock:
        """Return the parts of a block, as views."""
        table, params, *constants = (
            block[start : start + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for start, dtype, shape in self._parts()
        )
        return PassBlock(table, params, tuple(constants))

    def write(
        self,
        block: npt.NDArray[np.uint8],
        *,
        table: npt.NDArray[np.int64],
        params: npt.NDArray[np.float32],
        constants: Sequence[npt.NDArray[Any]],
    ) -> None:
        """Write a block; only PASS_PAD uses `table`."""
        parts = self.read(block)
        if self.kernel == PASS_PAD:
            parts.table[...] = table
        parts.params[...] = params
        for part, constant in zip(parts.constants, constants, strict=True):
            part[...] = constant.reshape(-1)

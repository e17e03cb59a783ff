"""The launch block: all data that one fused launch over some samples needs, in one range of bytes.

A GPU receives it with the batch, in the single copy that fills the front of the batch's memory. Its size
depends only on counts, which are known before anything is drawn. Imports numpy only.

    layout = BlockLayout(count=256, out_h=224, out_w=224, channels=3, ops=1, params=4)
    block = pinned[start : start + layout.size_bytes]          # start: a multiple of 16
    layout.write(block, table=..., boxes=..., ...)
    starts_cpu.fill_starts(*layout.start_arguments(block), lo, hi)    # in worker threads, samples [lo, hi)
    ... copy `pinned` to the GPU ...
    shell_cuda.compose(views, out, layout, start, stream=...)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ffcv_gpu.kernels.codes import (
    AT_CHROMA_COLUMNS,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    ERASE_OUTSIDE,
    RESAMPLE_AREA,
    SETTING_LATE_FROM,
    TABLE_COLUMNS,
)

__all__ = ["ALIGNMENT", "MAX_PRODUCT", "MAX_SIDE", "Block", "BlockLayout"]

#: a block, and each of its parts, starts at a multiple of this in its buffer
ALIGNMENT = 16

#: start tables hold a pixel's position and a number of pixels in 16 bits each
MAX_SIDE = 65535

#: largest side of an image times that of the output: positions in the kernels are 32-bit multiples of it
MAX_PRODUCT = 1 << 28


class Block(NamedTuple):
    """The parts of a block, as views of its bytes; `shell_cpu.compose` describes most of them.

    `settings` holds single numbers, SETTING_* and AT_* of `codes`; the latter say where each other part lies.
    It comes first, so that a kernel needs nothing but the block's address. `lut` holds its bits in uint32
    whatever the output's dtype. The start tables give, for each output position, the first source pixel
    along the axis and the number of pixels it depends on: ``start | count << 16``; those of chroma are empty
    without YCbCr planes.
    """

    settings: npt.NDArray[np.int32]
    table: npt.NDArray[np.int64]
    strides: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int32]
    geometry: npt.NDArray[np.int32]
    ops: npt.NDArray[np.int32]
    fills: npt.NDArray[np.uint32]
    lut: npt.NDArray[np.uint32]
    params: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    chroma_rows: npt.NDArray[np.int32]
    chroma_columns: npt.NDArray[np.int32]


@dataclass(frozen=True)
class BlockLayout:
    """The layout of a block, the same for every batch of a loader except a short last one.

    Attributes
    ----------
    count : int
        Number of samples.
    out_h, out_w, channels : int
        Shape of one output; 1, 3 or 4 channels on a GPU.
    ops, params : int
        Number of operations, and of parameter columns.
    resample : int
        A filter from `codes`.
    ycbcr : bool
        True if any sample may come in YCbCr planes; reserves space for the start tables of chroma.
    coloured : bool
        True if any operation does more than erase.
    """

    count: int
    out_h: int
    out_w: int
    channels: int
    ops: int = 0
    params: int = 0
    resample: int = RESAMPLE_AREA
    ycbcr: bool = False
    coloured: bool = False

    @cached_property
    def offsets(self) -> Block:
        """First byte of each part (a `Block` of int)."""
        return Block(*(start for start, *_ in self._parts))  # type: ignore[arg-type]

    @cached_property
    def size_bytes(self) -> int:
        """Size of a block, a multiple of `ALIGNMENT`."""
        return aligned(self._parts[-1][1])

    @cached_property
    def _parts(self) -> tuple[tuple[int, int, type, tuple[int, ...]], ...]:
        """First byte, end, dtype and shape of each part."""
        n, k = self.count, self.ops
        chroma = n if self.ycbcr else 0
        shapes: list[tuple[type, tuple[int, ...]]] = [
            (np.int32, (AT_CHROMA_COLUMNS + 1,)), (np.int64, (n, TABLE_COLUMNS)), (np.int64, (4,)),
            (np.int32, (n, 4)), (np.int32, (n, 4)), (np.int32, (k, 2)), (np.uint32, (k, 4)),
            (np.uint32, (self.channels, 256)),
            (np.float32, (n, self.params)), (np.int32, (n, self.out_h)), (np.int32, (n, self.out_w)),
            (np.int32, (chroma, self.out_h)), (np.int32, (chroma, self.out_w)),
        ]  # fmt: skip
        parts, start = [], 0
        for dtype, shape in shapes:
            end = start + prod(shape) * np.dtype(dtype).itemsize
            parts.append((start, end, dtype, shape))
            start = aligned(end)
        return tuple(parts)

    @cached_property
    def _settings(self) -> npt.NDArray[np.int32]:
        """The part of this name, without `late_from`."""
        places = [start // 4 for start, *_ in self._parts[1:]]
        return np.array([0, self.resample, self.out_h, self.out_w, self.ops, self.params, *places], np.int32)

    def read(self, block: npt.NDArray[np.uint8]) -> Block:
        """Return the parts of a block, as views.

        Parameters
        ----------
        block : uint8 (>= size_bytes,), contiguous
            Its first byte must lie at a multiple of 8 in memory.
        """
        if block.dtype != np.uint8 or block.ndim != 1 or block.size < self.size_bytes:
            raise ValueError(f"block: {self.size_bytes} bytes are needed, not {block.dtype}{block.shape}")
        return Block(
            *(block[start:end].view(dtype).reshape(shape) for start, end, dtype, shape in self._parts)
        )

    def write(
        self,
        block: npt.NDArray[np.uint8],
        *,
        table: npt.NDArray[np.int64],
        boxes: npt.NDArray[np.int32],
        geometry: npt.NDArray[np.int32],
        params: npt.NDArray[np.float32],
        ops: npt.NDArray[np.int32],
        fills: npt.NDArray[np.uint32],
        late_from: int,
        lut: npt.NDArray[np.unsignedinteger[Any]],
        strides: npt.NDArray[np.int64],
    ) -> Block:
        """Write everything but the start tables, which `starts_cpu.fill_starts` writes; return the parts.

        The arguments are those of `shell_cpu.compose`. Offsets in `table` count from the first byte of the
        buffer that the kernel receives, not from that of the block.

        Raises
        ------
        ValueError
            If an array does not have the layout's shape, an image is too large, a box lies outside its image,
            or the operations do not match the layout.
        """
        parts = self.read(block)
        given = {"table": table, "boxes": boxes, "geometry": geometry, "params": params, "ops": ops}
        for name, array in (given | {"fills": fills, "lut": lut, "strides": strides}).items():
            part = getattr(parts, name)
            if array.shape != part.shape:
                raise ValueError(f"block: {name} has shape {array.shape}; the layout says {part.shape}")
            part[...] = array
        parts.settings[:] = self._settings
        parts.settings[SETTING_LATE_FROM] = late_from
        self._check(parts, late_from)
        return parts

    def _check(self, parts: Block, late_from: int) -> None:
        """Reject what the kernel, which checks nothing, would silently compute wrongly."""
        if not self.count:
            return
        boxes, side = parts.boxes, int(parts.table[:, 6:8].max())
        if side > MAX_SIDE or side * max(self.out_h, self.out_w) >= MAX_PRODUCT:
            raise ValueError(f"block: images of {side} pixels a side are too large for this output")
        ends = boxes[:, :2].astype(np.int64) + boxes[:, 2:]
        if (boxes[:, :2] < 0).any() or (boxes[:, 2:] < 1).any() or (ends > parts.table[:, 6:8]).any():
            raise ValueError("block: a box lies outside its image")
        firsts = (
            parts.table[:, COLUMN_OFFSET0] + boxes[:, 0] * parts.table[:, COLUMN_PITCH0] + 3 * boxes[:, 1]
        )
        if self.channels == 3 and (firsts < ALIGNMENT).any():
            raise ValueError(f"block: a box in the buffer's first {ALIGNMENT} bytes; 12 before it are read")
        if not 0 <= late_from <= self.ops:
            raise ValueError(f"block: late_from is {late_from}, of {self.ops} operations")
        if not self.coloured and (parts.ops[:, 0] > ERASE_OUTSIDE).any():
            raise ValueError("block: operations that do more than erase need coloured=True")

    def start_arguments(self, block: npt.NDArray[np.uint8]) -> tuple[Any, ...]:
        """Return the arguments of `starts_cpu.fill_starts` before the range of samples."""
        parts = self.read(block)
        tables = parts.rows, parts.columns, parts.chroma_rows, parts.chroma_columns
        return (parts.table, parts.boxes, parts.geometry, self.resample, *tables)


def aligned(size: int) -> int:
    """Return `size` rounded up to `ALIGNMENT`."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT

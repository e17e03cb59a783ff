"""Launches on finished images as a loader packs them: all in one memory; what a CPU makes of them.

Made here, run on a CPU, on the PTX machine and on a GPU, so that all see the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    COLUMN_WIDTH,
    TABLE_COLUMNS,
)
from ffcv_gpu.kernels.pass_block import PassLayout
from ffcv_gpu.kernels.pass_codes import (
    IN_PLACE,
    PASS_BLEND,
    PASS_BLUR,
    PASS_PAD,
    PASS_REMAP,
    PASS_SHARPEN,
    PASS_WARP,
)
from tests.fake_gpu import measure, transform

__all__ = ["Case", "cases", "compare", "on_cpu", "place"]

#: the column of the parameters that a measurement goes to
COLUMN = 1


@dataclass
class Case:
    """A launch with all that it needs in one memory, at whose front the block lies."""

    layout: Any
    memory: npt.NDArray[np.uint8]
    source: int
    target: int
    scratch: int


def place(layout: Any, images: npt.NDArray[np.uint8], **parts: Any) -> Case:
    """Put a block, images, room for the result and for the rest into one memory."""
    source = -(-layout.size_bytes // 16) * 16
    in_place = isinstance(layout, PassLayout) and layout.kernel in IN_PLACE
    shape = layout.shape if isinstance(layout, PassLayout) else ()
    target = source if in_place else -(-(source + images.size) // 16) * 16
    scratch = -(-(target + layout.count * prod(shape)) // 16) * 16
    rest = layout.scratch_bytes if isinstance(layout, PassLayout) else 0
    memory = np.full(scratch + rest + 16, 0xA5, np.uint8)
    memory[source : source + images.size] = images.reshape(-1)
    block = memory[: layout.size_bytes]
    if isinstance(layout, PassLayout):
        layout.write(block, **parts)
    else:
        layout.read(block).params[:] = 0
    return Case(layout, memory, source, target, scratch)


def cases() -> dict[str, Case]:
    """Launches of each kind on three small images, one of them neutral everywhere."""
    rng = np.random.default_rng(0)
    images = rng.integers(30, 220, (3, 7, 9, 3), dtype=np.uint8)
    keep, fill = rng.random((7, 9, 3)), np.array([1, 2, 3], np.uint8)
    turn = (np.cos(0.4), np.sin(0.4), 0.5, -np.sin(0.4), np.cos(0.4), -1)
    given: dict[str, tuple[int, Any, list[Any]]] = {
        "sharpen": (PASS_SHARPEN, [0, -0.7, 1.3], []),
        "blur": (PASS_BLUR, [[0, 0, 1, 0, 0], [0.1, 0.2, 0.4, 0.2, 0.1], [0.2] * 5], []),
        "warp": (
            PASS_WARP,
            [(1, 0, 0, 0, 1, 0), turn, (1, 0.3, 0, 0, 1, 2)],
            [fill],
        ),
        "remap": (PASS_REMAP, [0, 1, 2], []),
        "blend": (PASS_BLEND, [0, 1, 1], [np.float32(keep), np.float32(1 - keep), np.float32([20, 200])]),
    }
    made = {}
    for name, (kernel, params, constants) in given.items():
        values = np.float32(params).reshape(3, -1)
        kinds = tuple((array.dtype.name, array.size) for array in constants)
        layout = PassLayout(3, kernel, (7, 9, 3), values.shape[1], kinds)
        made[name] = place(layout, images, table=None, params=values, constants=constants)
    made["pad"] = padding(images)
    made["mean"] = place(BlockLayout(3, 7, 9, 3, params=3), images)
    return made


def padding(images: npt.NDArray[np.uint8]) -> Case:
    layout = PassLayout(3, PASS_PAD, (9, 12, 3))
    table = np.zeros((3, TABLE_COLUMNS), np.int64)
    table[:, COLUMN_OFFSET0] = -(-layout.size_bytes // 16) * 16 + np.arange(3) * images[0].size
    table[:, COLUMN_PITCH0], table[:, COLUMN_HEIGHT] = 9 * 3, (7, 7, 4)
    table[:, COLUMN_WIDTH] = (9, 5, 9)
    return place(layout, images, table=table, params=np.zeros((3, 0), np.float32), constants=())


def on_cpu(case: Case) -> npt.NDArray[np.uint8]:
    """The memory after the CPU's launch."""
    memory = case.memory.copy()
    if isinstance(case.layout, BlockLayout):
        measure(memory, case.layout, 0, (COLUMN,), case.source)
    else:
        transform(memory, case.layout, 0, case.source, case.target)
    return memory[: case.scratch]


def compare(name: str, case: Case, found: npt.NDArray[np.uint8]) -> None:
    """`found`, the memory after the launch, is what the CPU makes of it, but for rounding."""
    expected, found = on_cpu(case), found[: case.scratch]
    assert not np.array_equal(expected, case.memory[: case.scratch]), name
    if isinstance(case.layout, BlockLayout):
        expected, found = (case.layout.read(memory).params for memory in (expected, found))
    apart = np.abs(found.astype(float) - expected)
    # a CPU rounds once where others round a product and a sum
    assert apart.max() <= (1e-4 if name == "mean" else 1) and (apart > 0).mean() < 0.02, name

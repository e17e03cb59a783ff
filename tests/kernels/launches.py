"""Launches as a loader packs them: blocks and pixels in one buffer; what a CPU makes of them.

Made here, run on a CPU, on the PTX machine and on a GPU, so that all see the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import (
    AFFINE,
    BRIGHTNESS,
    CONTRAST,
    ERASE_INSIDE,
    ERASE_OUTSIDE,
    GRAYSCALE,
    HUE,
    KIND_GREY,
    POSTERIZE,
    SATURATION,
    SOLARIZE,
    chroma_side,
    scratch_size,
    ycbcr_kind,
)

Pixels = npt.NDArray[np.uint8]

#: stands for the chroma of a sample that has none
GREY = (-1, -1)

#: one of each colour operation, with parameters that change most pixels
COLOURS: list[tuple[int, tuple[float, ...]]] = [
    (BRIGHTNESS, (1.25,)), (CONTRAST, (0.75, 100.0)), (SATURATION, (1.5,)), (HUE, (0.21,)),
    (SOLARIZE, (201.0,)), (AFFINE, (1.25, 1.0, 0.5, -9.0, 3.0, 40.0)), (POSTERIZE, (6.0,)),
    (GRAYSCALE, (0.0,)),
]  # fmt: skip


@dataclass
class Launch:
    """One buffer, whose first bytes are a block, and the output's dtype and number of elements."""

    layout: BlockLayout
    buffer: Pixels
    dtype: str
    size: int

    @property
    def block(self) -> Pixels:
        return self.buffer[: self.layout.size_bytes]


def by_cpu(launch: Launch) -> npt.NDArray[Any]:
    """What the CPU's shell makes of a launch, reading everything out of the block."""
    from ffcv_gpu.kernels.shell_cpu import compose

    layout, parts = launch.layout, launch.layout.read(launch.block)
    pixels = launch.buffer.view()
    pixels.flags.writeable = False
    out = np.zeros(launch.size, launch.dtype)
    tallest, widest = parts.boxes[:, 2:].max(axis=0).tolist()
    floats = scratch_size(tallest, widest, layout.out_h, layout.out_w, layout.channels)
    late_from, resample, out_h, out_w = parts.settings[:4].tolist()
    compose(
        pixels, pixels, parts.table, parts.boxes, parts.geometry, parts.params, parts.ops, parts.fills,
        late_from, parts.lut.astype(launch.dtype), out, parts.strides, out_h, out_w, resample,
        np.empty(floats, np.float32), 0, layout.count,
    )  # fmt: skip
    return out


def place(image: Pixels | Sequence[Pixels], shifts: tuple[int, int], start: int, gap: int) -> Any:
    """Return the table's row of an image at byte `start`, and its bytes; rows `gap` bytes apart.

    `image` is (H, W, C), or its planes, one or three (H, W) each.
    """
    planes = [image.reshape(len(image), -1)] if isinstance(image, np.ndarray) else list(image)
    record, parts = np.zeros(8, np.int64), []
    for number, plane in enumerate(planes):
        rows = np.full((plane.shape[0], plane.shape[1] + gap), 0xEE, np.uint8)
        rows[:, : plane.shape[1]] = plane
        record[1 + number] = start + sum(part.size for part in parts)
        record[4 + min(number, 1)] = rows.shape[1]
        parts.append(rows.reshape(-1))
    if isinstance(image, np.ndarray):
        record[6:] = image.shape[:2]
    else:
        record[0] = ycbcr_kind(*shifts) | (KIND_GREY if len(planes) == 1 else 0)
        record[6:] = planes[0].shape
    return record, np.concatenate(parts)


def pack(
    layout: BlockLayout,
    images: Sequence[Any],
    boxes: Any,
    *,
    shifts: Sequence[tuple[int, int]] | None = None,
    geometry: Any = None,
    ops: Sequence[tuple[int, tuple[float, ...]]] = (),
    late: int = 0,
    lut: npt.NDArray[Any] | None = None,
    planar: bool = False,
    gap: int = 5,
) -> Launch:
    """Return a launch over `images`; the last `late` of `ops` act behind the table."""
    from ffcv_gpu.kernels.starts_cpu import fill_starts

    n, (h, w, c) = layout.count, (layout.out_h, layout.out_w, layout.channels)
    table, parts, at = np.zeros((n, 8), np.int64), [], layout.size_bytes
    for i, image in enumerate(images):
        table[i], taken = place(image, shifts[i] if shifts else (0, 0), at, gap)
        parts.append(taken)
        at += taken.size
    buffer = np.zeros((at + 15) // 16 * 16, np.uint8)
    buffer[layout.size_bytes : at] = np.concatenate(parts)
    lut = np.tile(np.arange(256, dtype=np.uint8), (c, 1)) if lut is None else lut
    columns = np.cumsum([0] + [len(values) for _, values in ops])
    block = buffer[: layout.size_bytes]
    layout.write(
        block, table=table, boxes=np.asarray(boxes, np.int32),
        geometry=np.asarray([[1, 0, 1, 0]] * n if geometry is None else geometry, np.int32),
        params=np.tile(np.float32([v for _, values in ops for v in values]).reshape(1, -1), (n, 1)),
        ops=np.array([(code, columns[k]) for k, (code, _) in enumerate(ops)], np.int32).reshape(-1, 2),
        fills=np.arange(4 * len(ops), dtype=np.uint32).reshape(-1, 4) * 9, late_from=len(ops) - late,
        lut=lut, strides=np.array([h * w * c, *((w, 1, h * w) if planar else (w * c, c, 1))]),
    )  # fmt: skip
    fill_starts(*layout.start_arguments(block), 0, n)
    return Launch(layout, buffer, lut.dtype.name, n * h * w * c)


def random_launch(
    channels: int,
    resample: int,
    *,
    size: tuple[int, int] = (9, 13),
    source: tuple[int, int] = (12, 30),
    shifts: Sequence[tuple[int, int] | None] = (),
    count: int = 2,
    coloured: bool = False,
    dtype: str = "uint16",
    planar: bool = False,
    seed: int = 0,
) -> Launch:
    """Return a launch of noise with boxes, mirrors and shifts of all kinds, a few rectangles.

    `shifts` says of each sample which chroma it has, None for interleaved ones. Source sides are drawn from
    the range `source`.
    """
    rng = np.random.default_rng([channels, resample, seed, len(shifts)])
    sides = rng.integers(*source, (count, 2))
    extent = sides if resample else np.maximum(sides, size)
    kinds = [*shifts, *[None] * (count - len(shifts))]
    images: list[Any] = []
    for (height, width), kind in zip(extent.tolist(), kinds, strict=True):
        images.append(noise(rng, height, width, channels, kind))
    boxes = np.zeros((count, 4), np.int32)
    boxes[:, 2:] = rng.integers(extent // 2, extent + 1) if resample else size
    boxes[:, :2] = rng.integers(0, extent - boxes[:, 2:] + 1)
    flips = rng.integers(0, 2, (count, 2))
    geometry = np.zeros((count, 4), np.int32)
    for axis in (0, 1):
        geometry[:, 2 * axis] = 1 - 2 * flips[:, axis]
        geometry[:, 2 * axis + 1] = flips[:, axis] * (size[axis] - 1) + rng.integers(-2, 3, count)
    ops = [(ERASE_INSIDE, (1.0, 2.0, 4.0, 5.0)), (ERASE_OUTSIDE, (0.0, 0.0, size[0] - 1.0, size[1] + 0.0))]
    if coloured:
        ops[1:1] = COLOURS
    layout = BlockLayout(
        count, *size, channels, ops=len(ops), params=sum(len(values) for _, values in ops),
        resample=resample, ycbcr=any(kind is not None for kind in kinds), coloured=coloured,
    )  # fmt: skip
    # a table by which a level can be told again: the comparison is of levels
    lut = (np.arange(256)[None] + 256 * np.arange(channels)[:, None]).astype(dtype)
    steps = [(0, 0) if kind in (None, GREY) else kind for kind in kinds]
    return pack(
        layout, images, boxes, shifts=steps, geometry=geometry, ops=ops, late=1, lut=lut, planar=planar
    )


def noise(rng: Any, height: int, width: int, channels: int, kind: tuple[int, int] | None) -> Any:
    """Return random pixels, (H, W, C), or planes; `kind` GREY has one."""
    if kind is None:
        return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    luma = rng.integers(0, 256, (height, width), dtype=np.uint8)
    if kind == GREY:
        return [luma]
    small = chroma_side(height, kind[0]), chroma_side(width, kind[1])
    return [luma, *(rng.integers(0, 256, small, dtype=np.uint8) for _ in range(2))]

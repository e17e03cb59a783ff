"""The launch block: what is written is read back, sizes follow from counts, nonsense is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.kernels.block import ALIGNMENT, BlockLayout
from ffcv_gpu.kernels.codes import (
    BRIGHTNESS,
    ERASE_INSIDE,
    RESAMPLE_ANTIALIAS,
    RESAMPLE_AREA,
    RESAMPLE_NEAREST,
    RESAMPLE_NONE,
    ycbcr_kind,
)

LAYOUT = BlockLayout(count=5, out_h=12, out_w=9, channels=3, ops=2, params=8, ycbcr=True)


def random_arguments(layout: BlockLayout, seed: int = 0) -> dict[str, Any]:
    """Images of 30 to 60 pixels, boxes inside them, everything else random."""
    rng = np.random.default_rng(seed)
    n, k = layout.count, layout.ops
    table = rng.integers(0, 1 << 40, (n, 8))
    table[:, 0] = ycbcr_kind(1, 1) if layout.ycbcr else 0
    table[:, 6:] = rng.integers(30, 60, (n, 2))
    boxes = np.zeros((n, 4), np.int32)
    boxes[:, 2:] = rng.integers(1, table[:, 6:] + 1)
    boxes[:, :2] = rng.integers(0, table[:, 6:] - boxes[:, 2:] + 1)
    mirrored = rng.integers(0, 2, n)
    geometry = np.zeros((n, 4), np.int32)
    geometry[:, 0], geometry[:, 1] = 1, rng.integers(-3, 4, n)
    geometry[:, 2], geometry[:, 3] = 1 - 2 * mirrored, mirrored * (layout.out_w - 1)
    return {
        "table": table, "boxes": boxes, "geometry": geometry,
        "params": rng.random((n, layout.params), np.float32),
        "ops": np.array([[ERASE_INSIDE, 4 * i] for i in range(k)], np.int32).reshape(k, 2),
        "fills": rng.integers(0, 256, (k, 4)).astype(np.uint32), "late_from": k // 2,
        "lut": rng.integers(0, 1 << 16, (layout.channels, 256)).astype(np.uint16),
        "strides": np.array([324, 27, 3, 1]),
    }  # fmt: skip


def memory(size: int) -> npt.NDArray[np.uint8]:
    return np.full(size, 0xA5, np.uint8)


@pytest.mark.parametrize(
    "layout", [LAYOUT, BlockLayout(1, 3, 2, 1), BlockLayout(0, 3, 2, 4, ops=1, params=4)]
)
def test_what_is_written_is_read_back(layout: BlockLayout) -> None:
    given = random_arguments(layout)
    buffer = memory(layout.size_bytes + 32)
    layout.write(buffer[16:], **given)
    parts = layout.read(buffer[16:])
    for name in ("table", "boxes", "geometry", "params", "ops", "fills", "lut", "strides"):
        assert np.array_equal(getattr(parts, name), given[name]), name
    counts = [given["late_from"], RESAMPLE_AREA, layout.out_h, layout.out_w, layout.ops, layout.params]
    assert parts.settings.tolist() == [*counts, *(start // 4 for start in layout.offsets[1:])]
    assert (buffer[:16] == 0xA5).all()
    assert (buffer[16 + layout.size_bytes :] == 0xA5).all()


def test_parts_do_not_overlap_and_are_aligned() -> None:
    """Each part filled with its own number; all keep it."""
    block = memory(LAYOUT.size_bytes)
    parts = LAYOUT.read(block)
    for number, part in enumerate(parts):
        part[...] = number
    assert all((part == number).all() for number, part in enumerate(parts))
    assert all(start % ALIGNMENT == 0 for start in LAYOUT.offsets)
    assert LAYOUT.size_bytes % ALIGNMENT == 0
    starts = [part.ctypes.data - block.ctypes.data for part in parts]
    assert starts == list(LAYOUT.offsets)


WRONG: dict[str, dict[str, Any]] = {
    "outside its image": {"boxes": np.array([[0, 0, 61, 5]] * 5, np.int32)},
    "the layout says": {"params": np.zeros((5, 7), np.float32)},
    "late_from is 3": {"late_from": 3},
    "too large": {"table": np.full((5, 8), 70_000)},
    "12 before it are read": {"table": np.full((5, 8), 15), "boxes": np.array([[0, 0, 5, 5]] * 5, np.int32)},
    "coloured=True": {"ops": np.array([[BRIGHTNESS, 0], [ERASE_INSIDE, 4]], np.int32)},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_the_kernel_would_get_wrong_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAYOUT.write(memory(LAYOUT.size_bytes), **(random_arguments(LAYOUT) | WRONG[message]))


def test_a_short_block_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes are needed"):
        LAYOUT.read(memory(LAYOUT.size_bytes - 1))


@pytest.mark.parametrize("resample", [RESAMPLE_AREA, RESAMPLE_ANTIALIAS, RESAMPLE_NEAREST])
def test_start_tables_are_the_cpu_shells(resample: int) -> None:
    """Against `axis_cpu.fill_axis`: the span of a position holds all its weight, and starts with some."""
    from ffcv_gpu.kernels import axis_cpu
    from ffcv_gpu.kernels._numba import shared
    from ffcv_gpu.kernels.resample import axis_filter
    from ffcv_gpu.kernels.starts_cpu import fill_starts

    axis_taps = shared(lambda *arguments: axis_cpu.axis_taps(*arguments))
    fill_axis = shared(lambda *arguments: axis_cpu.fill_axis(*arguments))
    for out_h, out_w in ((12, 9), (100, 50), (224, 20)):
        layout = BlockLayout(40, out_h, out_w, 3, resample=resample)
        block = memory(layout.size_bytes)
        parts = layout.write(block, **random_arguments(layout, seed=out_h))
        fill_starts(*layout.start_arguments(block), 0, 17)
        assert (parts.rows[17:].view(np.uint32) == 0xA5A5A5A5).all()
        fill_starts(*layout.start_arguments(block), 17, 40)
        for n, (_, _, h, w) in enumerate(parts.boxes.tolist()):
            kind = axis_filter.py_func(resample, h, w, out_h, out_w)
            for side, out, turn, table in (
                (h, out_h, parts.geometry[n, :2], parts.rows[n]),
                (w, out_w, parts.geometry[n, 2:], parts.columns[n]),
            ):
                taps = axis_taps(kind, side, out)
                starts, weights = np.zeros(out, np.uint32), np.zeros((out, taps), np.float32)
                fill_axis(kind, side, out, *turn.tolist(), 1, taps, starts, weights.reshape(-1))
                position = starts[:, None] + np.arange(taps)
                begin, count = table.view(np.uint32) & 0xFFFF, table.view(np.uint32) >> 16
                inside = (position >= begin[:, None]) & (position < (begin + count)[:, None])
                assert (weights[~inside] == 0).all()
                assert (weights[inside] > 0).all()
                assert np.array_equal(inside.sum(1), count)


def test_start_tables_of_images_that_keep_their_size() -> None:
    from ffcv_gpu.kernels.starts_cpu import fill_starts

    rng = np.random.default_rng(0)
    table, boxes = np.zeros((50, 8), np.int64), np.tile(np.array([0, 0, 9, 12], np.int32), (50, 1))
    geometry = np.stack(
        [part for side in (9, 12) for part in (rng.choice([-1, 1], 50), rng.integers(-side, 2 * side, 50))], 1
    ).astype(np.int32)
    rows, columns, none = (
        np.zeros((50, 9), np.int32),
        np.zeros((50, 12), np.int32),
        np.zeros((0, 9), np.int32),
    )
    fill_starts(table, boxes, geometry, RESAMPLE_NONE, rows, columns, none, none, 0, 50)
    for made, (sign, shift) in ((rows, geometry.T[:2]), (columns, geometry.T[2:])):
        side = made.shape[1]
        shown = np.abs(sign[:, None] * np.arange(side) + shift[:, None])
        shown = np.maximum(np.minimum(shown, 2 * (side - 1) - shown), 0)
        assert np.array_equal(made, shown | 1 << 16)


def test_the_block_needs_numpy_alone() -> None:
    import subprocess
    import sys

    code = "import sys, ffcv_gpu.kernels.block; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Whole weights of three channels: what `triples_cuda` packs is what each source pixel contributes."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.chroma import chroma_span
from ffcv_gpu.kernels.codes import RESAMPLE_AREA, RESAMPLE_NEAREST
from ffcv_gpu.kernels.resample import AXIS_AREA, axis_filter

pytest.importorskip("numba.cuda")

SIDES = [1, 2, 3, 7, 9, 13, 64, 97, 224, 255, 299, 447, 448, 449, 1000, 4001, 65535]


def weights_of(place: tuple[int, ...], taps: int) -> list[int]:
    """Unpack the weights of a column's groups, without those before its first pixel."""
    _, more, low, high, middle, last = (int(number) for number in place)
    words = [low, high, *[middle, middle] * (more - 1), *([middle, last] if more else [])]
    found = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    assert not any(found[:-taps])
    return found[-taps:]


def exact_weights(kind: int, i: int, size: int, out_size: int, start: int, taps: int) -> list[int]:
    """Weights in units of 1 / size: overlaps where areas are averaged, else by distance."""
    overlaps = [
        max(min((t + 1) * out_size, (i + 1) * size) - max(t * out_size, i * size), 0)
        for t in range(start, start + taps)
    ]
    if taps == 1:
        return [size]
    return overlaps if kind == AXIS_AREA else [size - overlaps[-1], overlaps[-1]]


@pytest.mark.parametrize("resample", [RESAMPLE_AREA, RESAMPLE_NEAREST])
@pytest.mark.parametrize("out_size", [1, 3, 9, 224, 300])
def test_packed_weights_are_exact(out_size: int, resample: int) -> None:
    from ffcv_gpu.kernels.starts_cpu import fill_starts
    from ffcv_gpu.kernels.triples_cuda import packed_place

    sides = [side for side in SIDES if side * out_size < 1 << 24]
    layout = BlockLayout(len(sides), out_size, out_size, 3, resample=resample)
    parts = layout.read(np.zeros(layout.size_bytes, np.uint8))
    parts.geometry[:] = 1, 0, 1, 0
    parts.boxes[:, 2] = out_size + 1  # one axis shrinks: what the other does is up to its side
    parts.boxes[:, 3] = parts.table[:, 7] = sides
    fill_starts(*layout.start_arguments(parts.settings.base), 0, len(sides))
    for side, entries in zip(sides, parts.columns.view(np.uint32).tolist(), strict=True):
        kind = axis_filter(resample, out_size + 1, side, out_size, out_size)
        for i, entry in enumerate(entries):
            start, taps = entry & 0xFFFF, entry >> 16
            area, begin, length, unit = chroma_span(kind, i, 0, side, out_size, 0, start)
            place = packed_place(area, begin, length, unit, start, taps)
            assert place[0] == 3 * (start + taps - 4 * (int(place[1]) + 1))
            assert weights_of(place, taps) == exact_weights(kind, i, side, out_size, start, taps)

"""The bodies for rectangles: a GPU's pixel at a time and a CPU's row at a time are the same rectangle."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.kernels.codes import ERASE_INSIDE, ERASE_OUTSIDE
from ffcv_gpu.kernels.erase import is_erased, span_end, span_start

HEIGHT, WIDTH = 7, 9


@pytest.mark.parametrize(
    "rectangle",
    [
        (1, 2, 4, 6),
        (0, 0, HEIGHT, WIDTH),
        (-3, -3, 2, 2),
        (5, 7, 99, 99),
        (3, 3, 3, 8),
        (4, 8, 2, 1),
        (20, 20, 30, 30),
    ],
    ids=str,
)
def test_pixels_and_spans(rectangle: tuple[int, int, int, int]) -> None:
    y0, x0, y1, x1 = rectangle
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if y1 > y0 and x1 > x0:
        mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    for y in range(HEIGHT):
        begin, end = span_start(y, y0, x0, y1, WIDTH), span_end(y, y0, y1, x1, WIDTH)
        row = np.zeros(WIDTH, bool)
        row[begin : max(begin, end)] = True
        assert np.array_equal(row, mask[y])
        for x in range(WIDTH):
            assert is_erased(ERASE_INSIDE, y, x, y0, x0, y1, x1, WIDTH) == mask[y, x]
            assert is_erased(ERASE_OUTSIDE, y, x, y0, x0, y1, x1, WIDTH) != mask[y, x]

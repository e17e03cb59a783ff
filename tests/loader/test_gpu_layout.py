"""How batches are cut into parts that fit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffcv_gpu.loader.gpu_layout import split


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_parts_cover_all_samples_and_are_as_large_as_fits(sizes, limit):
    ranges = split(np.array(sizes, np.int64), limit)
    assert [i for lo, hi in ranges for i in range(lo, hi)] == list(range(len(sizes)))
    for number, (lo, hi) in enumerate(ranges):
        assert sum(sizes[lo:hi]) <= limit or hi == lo + 1
        if number + 1 < len(ranges):
            assert sum(sizes[lo : hi + 1]) > limit

"""Samples are packed as by one FFCV worker: in order, none across the end of a page."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffcv_gpu.writer.pages import Pages

PAGE = 64


def one_by_one(sizes, begin):
    """FFCV's rule (memory_allocator.py), one sample at a time."""
    offsets, cursor = [], begin
    for size in sizes:
        page_end = (cursor // PAGE + 1) * PAGE if cursor % PAGE else cursor + PAGE
        if cursor + size > page_end:
            cursor = page_end
        offsets.append(cursor)
        cursor += size
    return offsets, cursor


@given(
    parts=st.lists(st.lists(st.integers(0, PAGE), min_size=1, max_size=12), min_size=1, max_size=6),
    first=st.integers(0, 5),
)
def test_places_are_ffcvs_however_the_samples_come_in_parts(parts, first):
    pages = Pages(first * PAGE, PAGE)
    sizes = [size for part in parts for size in part]
    expected, end = one_by_one(sizes, first * PAGE)
    offsets, runs = [], []
    for part in parts:
        places, copied = pages.place(np.cumsum([0, *part]))
        offsets += places.tolist()
        runs += copied
    used = [k for k, size in enumerate(sizes) if size]
    assert [offsets[k] for k in used] == [expected[k] for k in used]
    assert pages.end == (-(-end // PAGE) * PAGE if any(sizes) else None)
    assert sum(run.stop - run.start for run in runs) == sum(sizes)
    for run in runs:
        assert run.offset // PAGE == (run.offset + run.stop - run.start - 1) // PAGE


def test_runs_say_what_lies_where():
    pages = Pages(PAGE, PAGE)
    offsets, runs = pages.place(np.cumsum([0, 30, 30, 30, 34, 64]))
    assert offsets.tolist() == [64, 94, 128, 158, 192]
    assert runs == [(0, 60, 64), (60, 124, 128), (124, 188, 192)]

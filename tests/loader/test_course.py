"""The course of an epoch: any interruptions, ranks and batch sizes show the order once, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffcv_gpu.loader.course import Course, Progress
from ffcv_gpu.sampling import batches, deal

RUN = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(0, 5))  # ranks, batch size, batches shown


def shown(order, world_size, batch_size, count, done):
    """Positions of `count` batches of all ranks as they are dealt, and how many are done then."""
    courses = [Course(order, batch_size, False, rank, world_size, done) for rank in range(world_size)]
    assert len({(len(course), course.samples) for course in courses}) == 1
    count = min(count, len(courses[0]))
    shares = [[c.positions(k) for k in range(count)] for c in courses]
    flat = np.stack([np.concatenate([np.zeros(0, np.int64), *share]) for share in shares], axis=1).reshape(-1)
    (after,) = {course.done_after(count) for course in courses}
    return flat.tolist(), after


@given(st.integers(1, 60), st.lists(RUN, max_size=5), st.integers(1, 6), st.integers(1, 7))
def test_any_interruptions_show_each_position_once(size, runs, world_size, batch_size):
    order, seen, done = np.arange(size) * 3, [], 0
    for run in runs:
        before = done
        positions, done = shown(order, *run, done)
        seen += positions[: done - before]
        assert done == size or len(positions) == done - before
        if done == size:
            break
    positions, after = shown(order, world_size, batch_size, size, done)
    if done < size:
        assert after == size and len(positions) - (size - done) < world_size
        assert positions[size - done :] == [k % size for k in range(len(positions) - (size - done))]
    assert seen + positions[: size - done] == list(range(size))


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 7), st.booleans())
def test_from_the_beginning_it_is_what_sampling_deals(size, world_size, batch_size, drop_last):
    order = np.random.default_rng(size).permutation(size)
    for rank in range(world_size):
        course = Course(order, batch_size, drop_last, rank, world_size)
        expected = batches(deal(order, rank, world_size), batch_size, drop_last)
        for size in (1, 2, 5):
            joined = course.bundles(size)
            assert len(joined) == -(-len(course) // size)
            for number, rows in enumerate(joined):
                first, count = number * size, min(size, len(course) - number * size)
                edges = course.edges(first, count)
                assert np.array_equal(rows, order[course.positions(first, count)])
                assert edges[-1] == len(rows) and len(edges) == count + 1
                for k in range(count):
                    assert np.array_equal(rows[edges[k] : edges[k + 1]], expected[first + k])
        got = [order[course.positions(index)] for index in range(len(course))]
        for other in (got, course.batches()):
            assert len(other) == len(expected) == len(course)
            assert all(np.array_equal(a, b) for a, b in zip(other, expected, strict=True))


def test_an_epoch_that_is_over_is_the_begin_of_the_next():
    progress = Progress(4, Course(np.arange(7), 2, drop_last=True))
    places = []
    for handed in range(len(progress.course) + 1):
        progress.handed = handed
        places.append(progress.place)
    assert places == [(4, 0), (4, 2), (4, 4), (5, 0)]
    assert Progress(0, Course(np.arange(7), 9, drop_last=True)).place == (1, 0)  # nothing to show

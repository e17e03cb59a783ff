"""Page schedules against a simulation of the epoch: bounded, complete, never thrashing."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffcv_gpu.readers import EpochRanges
from ffcv_gpu.readers.paged import plan_pages
from ffcv_gpu.readers.paged.schedule import WORTH_READING, _fitting
from ffcv_gpu.sampling import OrderOption, batches, deal, epoch_order

PAGE = 1000


@st.composite
def epochs(draw):
    """Payloads anywhere in a few pages (some empty, some across a border), batches with repeats."""
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    pages = draw(st.integers(1, 12))
    fields = []
    for _ in range(draw(st.integers(1, 2))):
        lengths = rng.integers(0, draw(st.sampled_from([20, 300, 1000])) + 1, count)
        offsets = rng.integers(0, pages * PAGE - lengths + 1)
        fields.append((offsets, lengths))
    order = (
        rng.integers(0, count, draw(st.integers(0, 60))) if draw(st.booleans()) else rng.permutation(count)
    )
    if draw(st.booleans()):
        order = order[np.argsort(fields[0][0][order])]
    split = batches(order, draw(st.integers(1, 9)), False)
    return EpochRanges(split, fields, draw(st.integers(1, 3)))


def uses(ranges):
    """Yield (batch, offset, length) of every payload with bytes."""
    for index, ids in enumerate(ranges.batches):
        for offsets, lengths in ranges.fields:
            for sample in ids.tolist():
                if lengths[sample]:
                    yield index, int(offsets[sample]), int(lengths[sample])


@settings(max_examples=300)
@given(ranges=epochs(), capacity=st.integers(0, 8))
def test_a_schedule_is_bounded_complete_and_never_reads_in_vain(ranges, capacity):
    schedule = plan_pages(ranges, PAGE, capacity)
    reads = [
        tuple(map(int, row))
        for row in zip(
            schedule.pages, schedule.begins, schedule.ends, schedule.firsts, schedule.lasts, strict=True
        )
    ]
    assert all(page * PAGE <= begin < end <= (page + 1) * PAGE for page, begin, end, _, _ in reads)
    assert [read[3] for read in reads] == sorted(read[3] for read in reads)
    # never more than the bound, counting the batches that may be under way together
    for batch in range(-ranges.in_flight, len(ranges.batches)):
        assert sum(f - ranges.in_flight + 1 <= batch <= last for *_, f, last in reads) <= capacity
    # every payload is in a read that is there for its batch, or is counted as single
    single = total = 0
    served = dict.fromkeys(range(len(reads)), 0)
    for batch, offset, length in uses(ranges):
        (found,) = schedule.find(batch, np.array([offset]), np.array([length])).tolist()
        total += length
        if found < 0:
            single += length
            continue
        page, begin, end, first, last = reads[found]
        assert page == offset // PAGE and begin <= offset and offset + length <= end
        assert first <= batch <= last
        served[found] += length
    assert (single, total) == (schedule.single_bytes, schedule.shown_bytes)
    # never thrashing: what is read is used, and a page comes again only after a whole cache of other bytes
    assert all(served[i] >= WORTH_READING * (read[2] - read[1]) for i, read in enumerate(reads))
    shown = np.zeros(len(ranges.batches) + 1)
    for batch, _, length in uses(ranges):
        shown[batch + 1 :] += length
    for one, two in combinations(reads, 2):
        if one[0] == two[0]:
            before, after = sorted([one, two], key=lambda read: read[3])
            assert shown[after[3]] - shown[before[4] + 1] > capacity * PAGE


@settings(max_examples=200)
@given(
    spans=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=8), capacity=st.integers(0, 3)
)
def test_as_many_pages_are_kept_as_can_be(spans, capacity):
    spans = sorted((start, start + size) for start, size in spans)
    starts, lasts = np.array(spans, np.int64).reshape(-1, 2).T

    def fits(chosen):
        return all(sum(spans[i][0] <= t <= spans[i][1] for i in chosen) <= capacity for t in range(16))

    kept = np.flatnonzero(_fitting(starts, lasts, np.ones(len(spans), np.int64), capacity)).tolist()
    everything = range(len(spans))
    best = max(n for n in range(len(spans) + 1) if any(map(fits, combinations(everything, n))))
    assert fits(kept) and len(kept) == best


MIB = 1 << 20
SAMPLES_A_PAGE, PAGES = 70, 300


def epoch(order, repeat=1, world_size=1):
    """The order over 300 pages of 8 MiB with 70 payloads each, in batches of 256."""
    samples = np.arange(PAGES * SAMPLES_A_PAGE)
    pages = samples // SAMPLES_A_PAGE + 1
    lengths = np.full(samples.size, 110_000)
    offsets = pages * 8 * MIB + samples % SAMPLES_A_PAGE * 110_000
    ids = epoch_order(order, samples, seed=3, epoch=0, sample_pages=pages)
    ids = deal(ids, 0, world_size)
    return EpochRanges(batches(np.tile(ids, repeat), 256, False), [(offsets, lengths)], 2)


@pytest.mark.parametrize(("order", "capacity"), [(OrderOption.SEQUENTIAL, 9), (OrderOption.QUASI_RANDOM, 80)])
def test_orders_by_page_read_every_page_once(order, capacity):
    schedule = plan_pages(epoch(order), 8 * MIB, capacity)
    assert np.array_equal(np.sort(schedule.pages), np.arange(1, PAGES + 1)) and schedule.single_bytes == 0
    assert schedule.wanted <= capacity


def test_quasi_random_with_too_small_a_cache_reads_what_fits_once():
    schedule = plan_pages(epoch(OrderOption.QUASI_RANDOM), 8 * MIB, 40)
    assert schedule.wanted > 64
    assert np.unique(schedule.pages).size == len(schedule)
    assert 0.3 < schedule.single_bytes / schedule.shown_bytes < 0.6


@pytest.mark.parametrize("capacity", [5, 30, 150, 300])
def test_random_order_reads_never_more_than_it_shows(capacity):
    schedule = plan_pages(epoch(OrderOption.RANDOM), 8 * MIB, capacity)
    read = int((schedule.ends - schedule.begins).sum()) + schedule.single_bytes
    assert read <= 1.2 * schedule.shown_bytes and schedule.wanted == PAGES
    assert schedule.single_bytes / schedule.shown_bytes == pytest.approx(1 - capacity / PAGES, abs=0.05)


@pytest.mark.parametrize("order", [OrderOption.SEQUENTIAL, OrderOption.QUASI_RANDOM])
def test_ranks_read_whole_pages_of_which_each_shows_an_eighth(order):
    told = epoch(order, world_size=8)
    schedule = plan_pages(told, 8 * MIB, 119, sharers=8)
    assert np.array_equal(np.sort(schedule.pages), np.arange(1, PAGES + 1)) and schedule.single_bytes == 0


def test_ranks_read_no_page_for_an_eighth_of_a_random_order():
    told = epoch(OrderOption.RANDOM, world_size=8)
    schedule = plan_pages(told, 8 * MIB, 30, sharers=8)
    read = int((schedule.ends - schedule.begins).sum()) + schedule.single_bytes
    assert read <= 1.2 * schedule.shown_bytes


def test_a_second_round_of_the_file_reads_it_a_second_time():
    schedule = plan_pages(epoch(OrderOption.SEQUENTIAL, repeat=2), 8 * MIB, 20)
    assert np.array_equal(np.bincount(schedule.pages)[1:], np.full(PAGES, 2)) and schedule.single_bytes == 0
    assert plan_pages(epoch(OrderOption.SEQUENTIAL, repeat=2), 8 * MIB, 300).pages.size == PAGES

"""The nvJPEG backend against the fake library: libjpeg-turbo's pixels by every route, in the right order."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.jpeg.base import DecodeStatus, Encoded
from ffcv_gpu.jpeg.nvjpeg import NvjpegBackend
from ffcv_gpu.jpeg.routing import GpuDecoders
from tests.jpeg.nvjpeg_bench import (
    CPU,
    ENGINE,
    GPU,
    ONE_CPU,
    ONE_GPU,
    UNTOUCHED,
    Bench,
    MakeJpeg,
    Pictures,
    mixed,
    plain,
)

# ---- routes

LIMITS = GpuDecoders(large_pixels=100 * 120, max_pixels=100 * 110)


@pytest.mark.parametrize("facts", [True, False], ids=["facts", "scanned"])
@pytest.mark.parametrize("deferred", [True, False], ids=["late", "early"])
@pytest.mark.parametrize("sentinel", [True, False], ids=["sentinel", "trusting"])
def test_a_mixed_batch_takes_every_route(bench, make_jpeg, facts, deferred, sentinel):
    one = bench(engines=7, deferred=deferred, decoders=LIMITS, sentinel=sentinel)
    pictures = one.pictures(*mixed(make_jpeg), facts=facts)
    for _ in range(4):  # more than there are slots
        pictures.check(pictures.submit(one.backend).wait())
    # Neither restart markers nor few pixels keep an image from the engine; RGB in the file does, and 1 x 3
    # pixels have no room for a sentinel.
    engine = 7 if sentinel else 8
    each = {ENGINE: engine, ONE_GPU: 1, ONE_CPU: 1, CPU: 10 - engine, "jpeg: refused": 3}
    assert one.backend.counts == {name: 4 * count for name, count in each.items()}
    assert one.fake.decoded["engine"] == 4 * engine


@pytest.mark.parametrize("deferred", [True, False], ids=["late", "early"])
@pytest.mark.parametrize("sentinel", [True, False], ids=["sentinel", "trusting"])
def test_rows_with_gaps_behind_them(bench, make_jpeg, deferred, sentinel):
    """As parts of larger images are written: every route leaves the other columns of its neighbours alone."""
    one = bench(engines=7, deferred=deferred, decoders=LIMITS, sentinel=sentinel)
    pictures = one.pictures(*mixed(make_jpeg), facts=True)
    encoded = pictures.encoded
    pitches = 3 * encoded.widths * (1 + np.arange(encoded.widths.size) * 3 % 5)
    sizes = encoded.heights * pitches
    starts = np.cumsum(sizes) - sizes + 5
    arena = one.gpu.device_bytes(int(sizes.sum()) + 9)
    outcome = one.backend.submit(replace(encoded, pitches=pitches), arena, starts).wait()
    assert outcome.status.tolist() == pictures.turbo.status.tolist()
    for i in np.flatnonzero(outcome.status == DecodeStatus.GOOD).tolist():
        height, row = int(encoded.heights[i]), 3 * int(encoded.widths[i])
        place = np.lib.stride_tricks.as_strided(arena[starts[i] :], (height, row), (int(pitches[i]), 1))
        expected = pictures.expected[pictures.starts[i] :][: height * row].reshape(height, row)
        assert np.array_equal(place, expected), i
        end = starts[i] + sizes[i]
        assert (arena[end - pitches[i] + row : end] == UNTOUCHED).all(), i
    assert (arena[:5] == UNTOUCHED).all() and (arena[-4:] == UNTOUCHED).all()
    counts = dict(one.backend.counts)
    pictures.check(pictures.submit(one.backend).wait())
    assert {name: count - counts[name] for name, count in one.backend.counts.items()} == counts


def test_without_engine_a_large_batch_is_decoded_by_the_cores(bench, make_jpeg):
    one = bench(batch_size=60)
    pictures = one.pictures(*plain(make_jpeg, 60))
    pictures.check(pictures.submit(one.backend).wait())
    assert one.backend.counts == {GPU: 60, "jpeg: fillers": 4}
    assert one.fake.decoded == {"gpu huffman": 64}
    assert one.backend.decoders.lanes == 0


def test_a_share_of_fifty_is_decoded_one_by_one(bench, make_jpeg):
    one = bench(batch_size=64)
    for count, route in [(50, ONE_CPU), (51, GPU)]:
        before = one.backend.counts.get(route, 0)
        pictures = one.pictures(*plain(make_jpeg, count))
        pictures.check(pictures.submit(one.backend).wait())
        assert one.backend.counts[route] - before == count
    batches = [call.images for call in one.fake.calls if call.name == "nvjpegDecodeBatched"]
    assert batches == [64]
    assert one.fake.decoded["gpu huffman"] == 64


def test_an_engine_s_calls_have_as_many_images_as_there_are_up_to_a_batch(bench, make_jpeg):
    one = bench(engines=3, batch_size=12)
    calls = one.watch()
    for count in (1, 10, 12, 13, 30):
        pictures = one.pictures(*plain(make_jpeg, count, alike=True))
        pictures.check(pictures.submit(one.backend).wait())
    assert [len(call.files) for call in calls] == [1, 10, 12, 12, 1, 12, 12, 6]
    assert one.backend.counts == {ENGINE: 66}
    assert all(len(set(call.targets)) == len(call.files) for call in calls), "two images, one destination"
    assert not any(call.flying_of_state for call in calls), "a state and its arrays hold one batch"


def test_no_images(bench):
    one = bench(engines=1)
    none = np.empty(0, np.int64)
    encoded = Encoded(one.gpu.pinned(4), none, none, none, none)
    outcome = one.backend.submit(encoded, one.gpu.device_bytes(4), none).wait()
    assert outcome.status.shape == (0,) and outcome.reasons == {}


def test_images_outside_the_bytes_are_the_callers_mistake(bench, make_jpeg):
    one = bench(engines=1)
    pictures = one.pictures(*plain(make_jpeg, 3))
    pictures.encoded.lengths[2] += 1
    with pytest.raises(ValueError, match="not inside"):
        pictures.submit(one.backend)


def test_a_size_other_than_recorded_is_never_written(bench, make_jpeg):
    files, sizes = plain(make_jpeg, 4)
    recorded = [sizes[0], (sizes[1][0] // 2, sizes[1][1]), sizes[2], (sizes[3][0] * 2, sizes[3][1])]
    one = bench(engines=1)
    pictures = one.pictures(files, recorded, facts=False)
    outcome = pictures.submit(one.backend).wait()
    pictures.check(outcome)
    assert (outcome.status != DecodeStatus.GOOD).tolist() == [False, True, False, True]


def test_the_one_by_one_route_checks_sizes_itself(bench, make_jpeg):
    """Also with the file's facts, which say nothing of sizes: nvJPEG knows no destination's height."""
    files = [make_jpeg(30, 20, 1, progressive=True), make_jpeg(30, 20, 2, progressive=True)]
    one = bench()
    pictures = one.pictures(files, [(15, 20), (30, 20)])
    outcome = pictures.submit(one.backend).wait()
    pictures.check(outcome)
    assert "20 x 30" in outcome.reasons[0] and outcome.status[1] == DecodeStatus.GOOD


# ---- order and lifetimes


def read_while_decoding(one: Bench, make_jpeg: MakeJpeg) -> bool:
    """Decode, let a consumer read some time later, decode other images to the same place; was it right?"""
    files, sizes = plain(make_jpeg, 8)
    first = one.pictures(files, sizes)
    first.check(first.submit(one.backend).wait())
    read = np.empty_like(first.arena)
    one.gpu.read_later(first.arena, read)
    others = [make_jpeg(*size, seed=i + 50) for i, size in enumerate(sizes)]
    second = one.pictures(others, sizes)
    outcome = one.backend.submit(second.encoded, first.arena, second.starts).wait()
    second.arena[:] = first.arena
    second.check(outcome)
    one.gpu.streams.synchronize()
    return np.array_equal(read, first.expected)


def test_an_arena_is_not_decoded_into_while_it_is_read(bench, make_jpeg):
    one = bench(engines=7)
    assert read_while_decoding(one, make_jpeg)
    assert one.gpu.waited == 2


def test_without_the_host_wait_the_reader_gets_other_pixels(bench, make_jpeg):
    """So the test above can fail: it is the wait that makes it right."""
    assert not read_while_decoding(bench(engines=7, waits=False), make_jpeg)


def test_an_arena_in_flight_is_waited_for(bench, make_jpeg):
    files, sizes = plain(make_jpeg, 8)
    one = bench(engines=7)
    first, second = one.pictures(files, sizes), one.pictures(files[::-1], sizes[::-1])
    first.submit(one.backend)
    outcome = one.backend.submit(second.encoded, first.arena, second.starts).wait()
    one.gpu.streams.synchronize()  # nothing of the first call may still come
    second.arena[:] = first.arena
    assert not outcome.status.any()
    assert all(second.parts())


def test_nothing_is_there_before_the_wait_and_tickets_may_be_waited_in_any_order(bench, make_jpeg):
    one = bench(engines=7, decoders=LIMITS)
    calls = [one.pictures(*mixed(make_jpeg), facts=bool(k % 2)) for k in range(6)]
    calls.append(one.pictures(*plain(make_jpeg, 8)))
    tickets = [pictures.submit(one.backend) for pictures in calls]
    assert (calls[-1].arena == UNTOUCHED).all()
    for k in (6, 2, 0, 5, 1, 3, 4):
        calls[k].check(tickets[k].wait())
        assert tickets[k].wait() is tickets[k].wait()


def test_two_threads(bench, make_jpeg):
    one = bench(engines=7, decoders=LIMITS, sentinel=True)
    calls = [[one.pictures(*mixed(make_jpeg)) for _ in range(2)] for _ in range(2)]

    def work(mine: list[Pictures]) -> None:
        for _ in range(4):
            tickets = [pictures.submit(one.backend) for pictures in mine]
            for pictures, ticket in zip(mine, tickets, strict=True):
                pictures.check(ticket.wait())

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(work, mine) for mine in calls]:
            done.result()


# ---- steady state


def test_a_hundred_batches_allocate_nothing(bench, make_jpeg):
    one = bench(engines=7, batch_size=16, decoders=LIMITS, sentinel=True)
    calls = [one.pictures(*mixed(make_jpeg)), one.pictures(*plain(make_jpeg, 16))]
    numbers, made = set(), set()
    for k in range(112):
        pictures = calls[k % 2]
        pictures.check(pictures.submit(one.backend).wait())
        if k >= 11:
            numbers.add((one.fake.allocations, one.gpu.allocations))
            made.add(sum("Create" in call.name for call in one.fake.calls))
    assert len(numbers) == len(made) == 1


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "dropped"])
def test_the_next_backend_uses_what_the_last_one_made(bench, make_jpeg, closed):
    """Also if nobody closed it: a GPU's last loader is just dropped, and nvJPEG's memory would be lost."""
    one = bench(engines=7)
    pictures = one.pictures(*mixed(make_jpeg))
    pictures.check(pictures.submit(one.backend).wait())
    if closed:
        one.backend.close()
        with pytest.raises(PipelineError, match="closed"):
            pictures.submit(one.backend)
    del one.backend
    gc.collect()
    before = sum("Create" in call.name for call in one.fake.calls)
    one.backend = NvjpegBackend(one.gpu, batch_size=20, library=one.fake.as_library())
    pictures.check(pictures.submit(one.backend).wait())
    assert sum("Create" in call.name for call in one.fake.calls) == before


def python_calls(one: Bench, pictures: Pictures) -> int:
    """Functions that one call of the backend enters, Python's and C's."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.collect()
    gc.disable()  # what it would find of other tests has finalizers, which are calls, too
    sys.setprofile(note)
    try:
        outcome = one.backend.submit(pictures.encoded, pictures.arena, pictures.starts).wait()
    finally:
        sys.setprofile(None)
        gc.enable()
    assert not outcome.status.any()
    return count


@pytest.mark.parametrize("facts", [True, False], ids=["facts", "scanned"])
@pytest.mark.parametrize("engines", [7, 0])
def test_the_batched_path_runs_no_python_for_single_images(bench, make_jpeg, engines, facts):
    """The fake's own Python is left out: a function that only says yes stands in for the decode."""
    one = bench(engines=engines, batch_size=128)
    sets = [one.pictures(*plain(make_jpeg, count), facts=facts) for count in (128, 60, 128, 60)]
    one.fake.nvjpegDecodeBatched = lambda *arguments: 0
    counts = [python_calls(one, pictures) for pictures in sets][2:]
    assert counts[0] == counts[1]


# ---- calls side by side


def test_ending_a_call_does_not_wait_for_the_submission_of_the_next(bench, make_jpeg):
    """nvJPEG's call takes as long as the engines; who waits for an earlier one must not wait for it, too."""
    one = bench(engines=7, batch_size=10)
    first, second = (one.pictures(*plain(make_jpeg, 7)) for _ in "ab")
    decode, entered, go_on = one.fake.nvjpegDecodeBatched, Event(), Event()
    begun = first.submit(one.backend)

    def slow(*arguments: Any) -> int:
        entered.set()
        assert go_on.wait(30)
        return decode(*arguments)

    one.fake.nvjpegDecodeBatched = slow
    with ThreadPoolExecutor(2) as pool:
        submission = pool.submit(second.submit, one.backend)
        try:
            assert entered.wait(30)
            outcome = pool.submit(begun.wait).result(timeout=20)
            assert not submission.done()
        finally:
            go_on.set()
        first.check(outcome)
        second.check(submission.result(timeout=30).wait())


def test_many_threads_submit_and_wait(bench, make_jpeg):
    """More calls than slots, ended by whoever comes first: each gives its own pixels, and no slot is lost."""
    one = bench(engines=7, batch_size=10, slots=2)
    sets = [one.pictures(*plain(make_jpeg, 5 + k)) for k in range(6)]

    def often(pictures: Pictures) -> None:
        for _ in range(6):
            ticket = pictures.submit(one.backend)
            ticket.wait()
            pictures.check(ticket.wait())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(often, sets))
    assert sum(count for name, count in one.backend.counts.items() if name == ENGINE) == 6 * sum(range(5, 11))

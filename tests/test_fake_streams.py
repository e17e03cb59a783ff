"""The fake streams against CUDA's rules: what runs when, seen from what was written into a list."""

from __future__ import annotations

import pytest

from tests.fake_streams import FakeStreams


def test_nothing_runs_before_somebody_waits() -> None:
    streams, done = FakeStreams(), []
    a, b = streams.stream(), streams.stream()
    a.submit(lambda: done.append("a1"))
    a.submit(lambda: done.append("a2"))
    b.submit(lambda: done.append("b1"))
    assert done == []
    assert not a.idle
    a.synchronize()
    assert done == ["a1", "a2"]  # in order, and nothing of b
    assert a.idle
    streams.synchronize()
    assert done == ["a1", "a2", "b1"]


def test_an_event_completes_what_was_before_it_only() -> None:
    streams, done = FakeStreams(), []
    stream, event = streams.stream(), streams.event()
    assert event.query()  # never recorded: complete
    event.synchronize()
    stream.submit(lambda: done.append(1))
    stream.record(event)
    stream.submit(lambda: done.append(2))
    event.synchronize()
    assert done == [1]
    assert event.query()


def test_asking_is_not_waiting_but_comes_to_an_end() -> None:
    streams, done = FakeStreams(), []
    stream, event = streams.stream(), streams.event()
    stream.submit(lambda: done.append(1))
    stream.record(event)
    asked = [event.query() for _ in range(3)]
    assert asked == [False, False, True]
    assert done == [1]


def test_one_stream_waits_for_another() -> None:
    streams, done = FakeStreams(), []
    decode, train = streams.stream(), streams.stream()
    event = streams.event()
    decode.submit(lambda: done.append("decode"))
    decode.record(event)
    train.wait(event)
    train.submit(lambda: done.append("train"))
    decode.submit(lambda: done.append("next decode"))
    train.synchronize()
    assert done == ["decode", "train"]


def test_a_wait_means_the_record_of_its_time() -> None:
    streams, done = FakeStreams(), []
    a, b = streams.stream(), streams.stream()
    event = streams.event()
    b.wait(event)  # not recorded yet: no wait at all
    a.submit(lambda: done.append("a1"))
    a.record(event)
    b.wait(event)
    a.submit(lambda: done.append("a2"))
    a.record(event)
    b.synchronize()
    assert done == ["a1"]
    event.synchronize()
    assert done == ["a1", "a2"]


@pytest.mark.parametrize("first", ["own", "other"])
def test_overtaking_comes_before_all_that_waits(first: str) -> None:
    streams, done = FakeStreams(), []
    own, other = streams.stream(), streams.stream()
    own.submit(lambda: done.append("own"))
    other.submit(lambda: done.append("other"))
    own.overtake(lambda: done.append("hasty"))
    assert done == []
    (own if first == "own" else other).synchronize()
    assert done == ["hasty", first]


def test_at_once() -> None:
    streams, done = FakeStreams(deferred=False), []
    stream, event = streams.stream(), streams.event()
    stream.submit(lambda: done.append(1))
    assert done == [1]
    stream.overtake(lambda: done.append(2))
    assert done == [1, 2]
    stream.record(event)
    assert event.query()


def test_handles() -> None:
    streams = FakeStreams()
    made = [streams.stream() for _ in range(3)]
    assert len({stream.handle for stream in made} | {0}) == 4
    assert [streams.find(stream.handle) for stream in made] == made
    assert streams.find(0) is streams.default
    assert streams.find(12345) is None

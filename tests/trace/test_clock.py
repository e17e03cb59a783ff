"""Stage clocks: sums by a clock of our own making, many threads, the table."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import FrozenInstanceError

import pytest

from ffcv_gpu.trace import BETRAYS, StageClock, StageStats, StageTime
from ffcv_gpu.trace import clock as clock_module


class FakeTime:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clock_module, "perf_counter", fake)
    return fake


def test_spans_add_up(time: FakeTime) -> None:
    clock = StageClock()
    for items in (3, 4):
        with clock.span("decode", items=items):
            time.now += 0.5
    with clock.span("wait"):
        time.now += 2.0
    time.now += 1.0
    stats = clock.snapshot()
    assert stats.elapsed_seconds == 4.0
    assert stats.stages == {"decode": StageTime(1.0, 2, 7), "wait": StageTime(2.0, 1, 0)}
    assert stats.stages["decode"].microseconds_per_item == pytest.approx(1e6 / 7)
    assert math.isnan(stats.stages["wait"].microseconds_per_item)


def test_nested_spans_both_count(time: FakeTime) -> None:
    clock = StageClock()
    with clock.span("read"):
        time.now += 1.0
        with clock.span("check"):
            time.now += 2.0
    stages = clock.snapshot().stages
    assert (stages["read"].seconds, stages["check"].seconds) == (3.0, 2.0)


def test_a_failing_block_counts_and_raises(time: FakeTime) -> None:
    clock = StageClock()

    def fail() -> None:
        time.now += 1.0
        raise KeyError("x")

    with pytest.raises(KeyError), clock.span("decode", items=1):
        fail()
    assert clock.snapshot().stages["decode"] == StageTime(1.0, 1, 1)


def test_counts() -> None:
    clock = StageClock()
    clock.count("jpeg: turbo", 5)
    clock.count("jpeg: turbo")
    clock.count("raw: copy", 0)
    assert clock.snapshot().counts == {"jpeg: turbo": 6}


def test_snapshot_is_a_copy(time: FakeTime) -> None:
    clock = StageClock()
    with clock.span("read", items=1):
        time.now += 1.0
    clock.count("raw: copy")
    before = clock.snapshot()
    with clock.span("read", items=1):
        time.now += 1.0
    clock.count("raw: copy")
    assert (before.elapsed_seconds, before.stages["read"].calls, before.counts) == (1.0, 1, {"raw: copy": 1})
    with pytest.raises(FrozenInstanceError):
        before.elapsed_seconds = 0.0  # type: ignore[misc]


def test_reset_forgets_but_an_open_span_ends_well(time: FakeTime) -> None:
    clock = StageClock()
    clock.count("raw: copy")
    with clock.span("read"):
        time.now += 1.0
    with clock.span("decode"):
        time.now += 1.0
        clock.reset()
        assert clock.snapshot() == StageStats(0.0, {}, {})
        time.now += 1.0
    assert clock.snapshot() == StageStats(1.0, {"decode": StageTime(2.0, 1, 0)}, {})


def test_threads_lose_nothing() -> None:
    clock, threads_at_once, rounds = StageClock(), 8, 2000
    start = threading.Barrier(threads_at_once)

    def work() -> None:
        start.wait()
        for _ in range(rounds):
            with clock.span("decode", items=3):
                clock.count("jpeg: turbo", 3)

    threads = [threading.Thread(target=work) for _ in range(threads_at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = clock.snapshot()
    assert stats.stages["decode"].calls == threads_at_once * rounds
    assert stats.stages["decode"].items == stats.counts["jpeg: turbo"] == 3 * threads_at_once * rounds


def test_the_table_names_stage_numbers_and_bottleneck() -> None:
    stages = {
        "wait": StageTime(0.25, 10, 0),
        "decode": StageTime(12.5, 10, 2560),
        "mine": StageTime(0.5, 1, 1),
    }
    lines = str(StageStats(20.0, stages, {"jpeg: turbo": 2500, "raw: copy": 60})).splitlines()
    assert lines[0].startswith("20.000 s")
    assert lines[1].split()[:5] == ["stage", "seconds", "calls", "items", "us/item"]
    assert [line.split()[0] for line in lines[2:5]] == ["decode", "mine", "wait"]  # largest first
    assert lines[2].split()[1:5] == ["12.500", "10", "2560", "4882.8"]
    assert lines[2].endswith(BETRAYS["decode"])
    assert lines[4].split()[1:5] == ["0.250", "10", "0", "-"]
    assert [line.rsplit(maxsplit=1) for line in lines[5:]] == [["jpeg: turbo", "2500"], ["raw: copy", "60"]]


def test_an_empty_table_prints() -> None:
    assert str(StageStats(0.0, {}, {})).splitlines()[1].split()[0] == "stage"


def test_as_dict_goes_to_json() -> None:
    stats = StageStats(2.0, {"read": StageTime(1.0, 2, 3)}, {"raw: copy": 3})
    assert json.loads(json.dumps(stats.as_dict())) == {
        "elapsed_seconds": 2.0,
        "stages": {"read": {"seconds": 1.0, "calls": 2, "items": 3}},
        "counts": {"raw: copy": 3},
    }

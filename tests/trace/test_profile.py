"""``loader.profile()``: the part between two moments, and the sentence about the bottleneck."""

from __future__ import annotations

import pytest

from ffcv_gpu.trace import BETRAYS, Profile, StageClock, StageStats, StageTime
from ffcv_gpu.trace import clock as clock_module
from ffcv_gpu.trace.profile import bottleneck
from tests.small_file import until_the_loop_waits, wait_for_no_room


def test_only_what_happened_between_counts(make_loader, cpu_decoder):
    loader = make_loader()
    list(loader)
    with loader.profile() as profile:
        list(loader)
        live = profile.stats().stages["decode"].items
    list(loader)
    stats = profile.stats()
    assert live == stats.stages["decode"].items == stats.counts[f"jpeg: {cpu_decoder}"] == 24
    assert loader.stats().stages["decode"].items == 72
    assert stats.stages["wait"].calls == 7  # the last one finds the end
    assert stats.elapsed_seconds < loader.stats().elapsed_seconds
    assert str(profile).splitlines()[0] == profile.bottleneck


def test_restart_and_a_reset_in_between(make_loader):
    loader = make_loader()
    profile = loader.profile()
    list(loader)
    profile.restart()
    assert profile.bottleneck == "nothing was loaded in this interval"
    list(loader)
    loader.reset_stats()
    list(loader)
    assert profile.stats().stages["decode"].items == 24


class Time:
    """The loader's clock: only what is slow on purpose takes any time, whatever else the machine does."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Time()
    monkeypatch.setattr(clock_module, "perf_counter", made)
    return made


@pytest.mark.usefixtures("single_batches")
def test_a_slow_loop_is_named(make_loader, clock):
    loader = make_loader()
    with loader.profile() as profile:
        running = iter(loader)
        for number, _ in enumerate(running):
            if number < 2:  # there is no room for the rest
                wait_for_no_room(running._run)
            clock.now += 0.25
    assert profile.bottleneck.startswith("your loop is the bottleneck: it waited for batches 0% of the time")
    assert profile.stats().stages["ahead"].seconds >= 0.5


def test_a_slow_stage_is_named(make_loader, monkeypatch, clock):
    loader = make_loader()
    backend = loader._assembly.host_backend(tuple(loader.code.values()))
    submit = backend.submit

    def slowly(*arguments):
        until_the_loop_waits()
        clock.now += 0.25
        return submit(*arguments)

    monkeypatch.setattr(backend, "submit", slowly)
    with loader.profile() as profile:
        list(loader)
    assert profile.bottleneck.startswith("the loader is the bottleneck")
    assert "'decode'" in profile.bottleneck


WAITED = "waited for batches 5% of the time, and the loader waited for your loop 60%"


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ({"wait": 9.0, "decode": 34.0, "compose": 4.0, "plan": 1.0},
         f"85% of the time of 4 threads ({BETRAYS['decode']}"),
        ({"wait": 9.0, "decode": 12.0, "plan": 8.0},
         f"'plan', 80% of the time of its one thread ({BETRAYS['plan']}"),
        ({"wait": 0.5, "decode": 30.0, "ahead": 6.0}, WAITED),
        ({"wait": 9.0, "decode": 4.0, "compose": 2.0}, "threads were otherwise idle"),
        ({"wait": 9.0, "decode": 9.5, "submit": 1.0, "launch": 1.0},
         "'decode', 95% of the time of its one thread (JPEG decoding on the GPU:"),
        ({"wait": 9.0, "decode": 0.5, "submit": 9.8, "read": 20.0},
         f"'submit', 98% of the time of its one thread ({BETRAYS['submit']}"),
        ({"wait": 9.0, "mine": 39.0}, "'mine', 98% of the time of 4 threads"),
    ],
)  # fmt: skip
def test_sentences(stages, expected):
    stats = StageStats(10.0, {name: StageTime(seconds, 5, 5) for name, seconds in stages.items()}, {})
    assert expected in bottleneck(stats, workers=4)


def test_two_clocks_in_one_process_do_not_mix():
    one, other = StageClock(), StageClock()
    profile = Profile(one, 1)
    with other.span("decode", items=3):
        pass
    assert profile.stats().stages == {}

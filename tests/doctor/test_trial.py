"""Trials: which threads count as what."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from ffcv_gpu.doctor.costs import measure_costs
from ffcv_gpu.doctor.survey import survey
from ffcv_gpu.doctor.trial import REPEATS, Setup, run_trial


@pytest.fixture
def asked(monkeypatch):
    """Replace the threads' CPU clocks by ones that go by a second per look; return who looked."""
    names = Counter()

    def thread_time():
        names[threading.current_thread().name] += 1
        return float(names[threading.current_thread().name])

    monkeypatch.setattr("ffcv_gpu.doctor.trial.thread_time", thread_time)
    return names


def test_only_the_conductor_and_the_loop_are_one_thread(photo_file, asked):
    trial = run_trial(str(photo_file), Setup(4, 1, 16), range(16), batch_size=4)
    assert set(asked) == {"MainThread", "ffcv_gpu-conductor"}
    assert trial.stages["decode"] > 0
    # From each thread's first look to its last, of the epoch with the fewest: how many there are may differ.
    assert 0 < trial.conducting_seconds <= sum(number / REPEATS - 1 for number in asked.values())


def test_the_cost_of_one_thread_is_theirs(photo_file, asked):
    """Not the rest of the process's time, which is small, and mostly what the workers' stages leave out."""
    costs = measure_costs(survey(str(photo_file), {}), Setup(4, 1, 16))
    assert 0.1 < costs.plan_batch + 4 * costs.plan_sample < 10  # seconds, by the clock that they ask

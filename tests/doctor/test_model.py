"""The model by itself: made-up costs whose answers can be worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.doctor.advice import advise
from ffcv_gpu.doctor.costs import Costs, Density, nonnegative_fit
from ffcv_gpu.doctor.disk import Disk
from ffcv_gpu.doctor.model import Load, Situation, load_of, predict
from ffcv_gpu.doctor.survey import Survey

MEMORY = Disk(None, None, 1e-10, 1, 1.0)


def costs(*, contention=0.0, plan_batch=0.0, plan_sample=1e-6):
    decode, compose = np.array([1e-4, 2e-9, 10e-9]), np.array([5e-5, 1e-9])
    density = {90: Density(1.0, 0.0), 75: Density(0.5, 0.0)}
    return Costs(decode, 0.0, compose, 0.0, plan_sample, plan_batch, contention, density)


def photos(count=100, side=500, jpeg=True):
    sides = np.full(count, side)
    size = np.full(count, side * side // 5 if jpeg else 3 * side * side)
    none = np.full(count, jpeg)
    return Survey("x", count, int(size.sum()), "image", none, sides, sides, size, np.cumsum(size), size)


def situation(**settings):
    return Situation(
        **{"batch_size": 100, "workers": 4, "cpus": 4, "step_seconds": None, "cold": False, **settings}
    )


def test_a_load_is_the_mean_over_the_samples():
    load = load_of(costs(), photos())
    assert load.stages["decode"] == pytest.approx(1e-4 + 2e-9 * 250e3 + 10e-9 * 50e3)
    assert load.stages["compose"] == pytest.approx(5e-5 + 1e-9 * 250e3)
    assert load.read_bytes == 50e3
    raw = load_of(costs(), photos(), jpeg=np.zeros(100))
    assert (raw.stages["decode"], raw.read_bytes) == (0.0, 750e3)


def test_threads_share_what_there_is_of_cpus():
    load = Load(0.0, {"decode": 1e-3})
    rates = [predict(costs(), MEMORY, load, situation(workers=n)).images_per_second for n in (1, 2, 4, 8)]
    assert rates == pytest.approx([1000, 2000, 4e3 / 1.001, 4e3 / 1.001])
    slowed = predict(costs(contention=0.5), MEMORY, load, situation(workers=2)).images_per_second
    assert slowed == pytest.approx(2000 / 1.5)


@pytest.mark.parametrize(
    ("load", "settings", "expected", "rate"),
    [
        (Load(0.0, {"decode": 1e-3, "compose": 4e-4}), {"workers": 1}, "decode", 1 / 1.4e-3),
        (Load(0.0, {"decode": 1e-4, "compose": 4e-4}), {"workers": 1}, "compose", 2000),
        (Load(1e6, {"decode": 1e-3}), {"cold": True}, "disk", 100),
        (Load(1e3, {"decode": 1e-3}), {"step_seconds": 1.0}, "step", 100),
        (Load(10.0, {"compose": 1e-7}), {}, "one thread", 1e6),
    ],
)  # fmt: skip
def test_the_slowest_decides(load, settings, expected, rate):
    disk = Disk(1e-8, 1e-8, 1e-10, 4, 0.0)
    found = predict(costs(), disk, load, situation(**settings))
    assert found.bottleneck == expected
    assert found.images_per_second == pytest.approx(rate, rel=0.01)


def test_waiting_threads_are_helped_by_more_of_them_and_by_reading_ahead():
    disk, load = Disk(1e-7, 1e-9, 1e-10, 8, 0.0), Load(1e5, {"decode": 1e-3})  # 10 ms alone, 0.1 together

    def rate(**settings):
        return predict(costs(), disk, load, situation(cold=True, **settings)).images_per_second

    assert rate(workers=4) == pytest.approx(4 / 11e-3)
    assert rate(workers=8) == pytest.approx(8 / 11e-3)
    assert rate(workers=4, read_ahead=True) == pytest.approx(4e3 / 1.001)


def test_the_fit_finds_weights_that_made_the_numbers_and_never_negative_ones():
    columns = np.array([[1.0, 2.0, 1.0], [1.0, 5.0, 2.0], [1.0, 1.0, 4.0], [1.0, 8.0, 3.0]])
    assert nonnegative_fit(columns, columns @ [3.0, 2.0, 1.0]) == pytest.approx([3.0, 2.0, 1.0])
    assert nonnegative_fit(columns, columns @ [0.0, 2.0, 0.0]) == pytest.approx([0.0, 2.0, 0.0])
    falling = nonnegative_fit(columns[:, :2], np.array([5.0, 3.0, 6.0, 1.0]))
    assert (falling >= 0).all()
    assert falling[1] == 0


def changes(survey, where, side=224):
    now = predict(costs(), MEMORY, load_of(costs(), survey), where)
    return now, {change.what: change for change in advise(costs(), MEMORY, survey, where, side, now)}


def test_advice_has_the_effects_and_sizes_of_the_formulas():
    now, found = changes(photos(), situation(workers=1))
    assert now.images_per_second == pytest.approx(1 / (1e-4 + 5e-4 + 5e-4 + 5e-5 + 2.5e-4))
    smaller = found["max_resolution=256, JPEG, jpeg_quality=90"]
    pixels = 256 * 256
    seconds = 1e-4 + 2e-9 * pixels + 10e-9 * pixels + 5e-5 + 1e-9 * pixels
    assert smaller.prediction.images_per_second == pytest.approx(1 / seconds)
    assert smaller.file_bytes == pytest.approx(100 * pixels)
    raw = found["write_mode='proportion', compress_probability=0 (the rest raw, same size)"]
    assert raw.file_bytes == pytest.approx(100 * 750e3)
    assert raw.prediction.images_per_second == pytest.approx(1 / (5e-5 + 2.5e-4))
    assert found["num_workers=4, as many as there are CPUs"].file_bytes == 100 * 50e3
    rates = [change.prediction.images_per_second for change in found.values()]
    assert rates == sorted(rates, reverse=True)
    assert min(rates) > 1.05 * now.images_per_second
    assert not any("max_resolution=192" in what for what in found)  # crops of 224 would enlarge


def test_no_more_threads_than_help_and_no_sizes_that_the_images_have_not():
    _, found = changes(photos(side=250), situation())
    assert not any("num_workers" in what or "max_resolution" in what for what in found)


def test_behind_a_slow_step_only_room_is_saved():
    now, found = changes(photos(jpeg=False), situation(step_seconds=1.0))
    assert now.bottleneck == "step"
    assert found
    assert all(change.file_bytes < 100 * 750e3 for change in found.values())
    assert all(change.prediction.images_per_second == 100 for change in found.values())

"""The doctor's verdict in situations made on purpose, and its predictions against what then happens.

Ratios are loose: two shared cores. What must be right is which resource is the limit, and what is faster.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ffcv_gpu.dataset import file as dataset_module
from ffcv_gpu.doctor import VERDICTS, Setup, examine, judge, measure, report
from ffcv_gpu.doctor.costs import Costs, Density
from ffcv_gpu.doctor.diagnosis import Findings
from ffcv_gpu.doctor.disk import Disk, measure_disk
from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.errors import FormatError, PipelineError
from ffcv_gpu.fields import MaskField, RGBImageField
from ffcv_gpu.readers import PositionedReader
from ffcv_gpu.transforms import RandomHorizontalFlip
from ffcv_gpu.writer import DatasetWriter
from tests.doctor.conftest import (
    BATCH,
    SIDE,
    SlowDisk,
    SlowMap,
    images_per_cpu_second,
    images_per_second,
    loader_of,
    write,
)


def test_a_slow_disk(found, photo_file, monkeypatch, disk_clock):
    slow = SlowDisk(PositionedReader(str(photo_file)), SlowMap.rate, disk_clock.sleep)
    disk = measure_disk(found.survey, 1, slow)
    assert 1 / disk.cold == pytest.approx(SlowMap.rate)
    diagnosis = judge(replace(found, disk=disk), Setup(BATCH, 1, SIDE, cold=True))
    assert diagnosis.bottleneck == "disk"
    assert all(change.file_bytes < found.survey.file_bytes for change in diagnosis.changes[:3])
    monkeypatch.setattr(dataset_module, "MappedReader", SlowMap)
    predicted = diagnosis.prediction.images_per_second
    assert images_per_second(photo_file, enough=0.6 * predicted) == pytest.approx(predicted, rel=0.5)


def test_few_cores(found):
    # cores that nobody else uses, and a plan that waits for none: as measured on a quiet machine
    quiet = replace(found.costs, contention=0.0, plan_batch=1e-4, plan_sample=1e-6)
    diagnosis = judge(replace(found, costs=quiet), Setup(BATCH, 1, SIDE))
    assert diagnosis.bottleneck == "decode"
    changes = diagnosis.changes
    threads = [change for change in changes if change.what.startswith("num_workers=")]
    assert bool(threads) == (diagnosis.situation.cpus > 1)


def test_a_slow_step(found, photo_file):
    diagnosis = judge(found, Setup(BATCH, 1, SIDE, step_seconds=0.2))
    assert diagnosis.bottleneck == "step"
    assert diagnosis.prediction.images_per_second == pytest.approx(BATCH / 0.2)
    really = images_per_second(photo_file, step=0.2, enough=0.6 * BATCH / 0.2)
    assert 0.5 < really / (BATCH / 0.2) < 1.01
    for change in diagnosis.changes:  # nothing makes it faster: what is offered saves room
        assert change.prediction.images_per_second == pytest.approx(BATCH / 0.2)
        assert change.file_bytes < found.survey.file_bytes
    assert "save space" in report(diagnosis)


@pytest.mark.long  # compares real speeds: not on a machine that does other things
def test_one_thread_is_as_fast_as_predicted(photo_file):
    diagnosis = examine(photo_file, Setup(BATCH, 1, SIDE))
    (really,) = images_per_cpu_second(photo_file)
    assert 1 / 2 < really / diagnosis.prediction.images_per_second < 2


def test_masks_are_no_photographs(make_jpeg, tmp_path):
    masks = [np.full((90, 120), i % 3, np.uint8) for i in range(16)]
    samples = [(make_jpeg(90, 120, i), mask) for i, mask in enumerate(masks)]
    both, alone = tmp_path / "both.beton", tmp_path / "masks.beton"
    fields = {"image": RGBImageField(), "mask": MaskField()}
    DatasetWriter(both, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    found = measure(both, Setup(BATCH, 1, 32))
    assert found.survey.image == "image" and found.survey.jpeg.all()
    assert found.survey.bytes_per_sample > 90 * 120  # the masks are larger than the JPEGs, and read, too
    DatasetWriter(alone, {"mask": MaskField()}, num_workers=1, progress=False).from_indexed_dataset(
        [(mask,) for mask in masks]
    )
    assert examine(alone, Setup(BATCH, 1, 32)).found.survey.image is None


def test_tiny_images_one_by_one(make_photo, tmp_path):
    images = [make_photo(8, 8, i % 50) for i in range(80)]
    path = write(tmp_path / "tiny.beton", images, write_mode="raw")
    diagnosis = examine(path, Setup(1, 1, 8))
    assert diagnosis.bottleneck == "one thread"
    assert diagnosis.changes[0].what == "batch_size=4"
    assert "\n  batch_size=4\n" in report(diagnosis)


def test_huge_images(make_jpeg, tmp_path):
    path = write(tmp_path / "huge.beton", [make_jpeg(1200, 1600, i, quality=95) for i in range(4)])
    diagnosis = examine(path, Setup(2, 1, SIDE, cold=False))
    assert diagnosis.bottleneck == "decode"
    best = diagnosis.changes[0]
    assert best.knob == "resolution"
    assert best.prediction.images_per_second > 3 * diagnosis.prediction.images_per_second


def made_up(*, decode=1e-3, compose=1e-4, plan_batch=0.0, side=500, disk=None, gpu=None):
    """Findings with costs of our own making: 1000 JPEGs of one size, seconds an image (and a batch)."""
    pixels, count = side * side, 1000
    size = np.full(count, pixels // 5)
    facts = (np.ones(count, bool), np.full(count, side), np.full(count, side), size)
    survey = Survey("x", count, int(size.sum()), "image", *facts, np.cumsum(size), size)
    density = {quality: Density(0.2 * quality / 90, 0.0) for quality in (90, 75)}
    weights = np.array([0.0, decode / pixels, 0.0]), np.array([compose, 0.0])
    costs = Costs(weights[0], 0.0, weights[1], 0.0, 1e-6, plan_batch, 0.0, density)
    return Findings(survey, disk or Disk(1e-9, 1e-9, 1e-10, 4, 1.0), costs, gpu, 1e10)


SITUATIONS = {
    "slow disk": (
        made_up(disk=Disk(1e-7, 1e-7, 1e-10, 4, 0.0)), Setup(64, 4, cold=True), "disk", "resolution"
    ),
    "disk that answers late": (
        made_up(disk=Disk(1e-7, 1e-9, 1e-10, 4, 0.0)), Setup(64, 4, cold=True), "disk", "cache mode"
    ),
    "few cores": (made_up(), Setup(64, 4), "decode", "resolution"),
    "few threads": (made_up(decode=1e-4, compose=1e-3), Setup(64, 1), "compose", "workers"),
    "slow step": (made_up(), Setup(64, 4, step_seconds=1.0), "step", "resolution"),
    "tiny images": (
        made_up(decode=0, compose=1e-6, side=8, plan_batch=1e-3), Setup(4, 4, 8), "one thread", "batch size"
    ),
    "huge images": (made_up(decode=0.1, side=4000), Setup(64, 4), "decode", "resolution"),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_verdict_and_the_first_advice(name, monkeypatch):
    monkeypatch.setattr("ffcv_gpu.doctor.diagnosis.usable_cpus", lambda: 4)
    found, setup, bottleneck, knob = SITUATIONS[name]
    diagnosis = judge(found, setup)
    assert diagnosis.bottleneck == bottleneck
    assert diagnosis.changes[0].knob == knob
    said = json.loads(json.dumps(diagnosis.as_dict()))["changes"][0]
    assert said["knob"] == knob
    assert said["prediction"]["images_per_second"] > 0
    assert said["file_bytes"] > 0
    assert VERDICTS[bottleneck] in report(diagnosis)


def test_nothing_is_advised_that_would_gain_nothing(monkeypatch):
    monkeypatch.setattr("ffcv_gpu.doctor.diagnosis.usable_cpus", lambda: 4)
    text = report(judge(made_up(decode=0, compose=1e-9, side=8), Setup(64, 4, 8)))  # no cost of a batch
    idle = "resolution, quality, subsampling, JPEG fraction, crop index, workers, batch size"
    assert f"would gain less than 5%: {idle}" in text
    assert "batches" not in text.partition("what would help")[2]


def test_a_file_of_less_than_a_batch_says_little(monkeypatch):
    monkeypatch.setattr("ffcv_gpu.doctor.diagnosis.usable_cpus", lambda: 4)
    assert "less than a batch" not in report(judge(made_up(), Setup(1000, 4)))
    assert "has 1,000 samples, less than a batch" in report(judge(made_up(), Setup(1001, 4)))
    one = made_up()
    one = replace(one, survey=replace(one.survey, samples=1))
    assert "has 1 sample, less than a batch" in report(judge(one, Setup(64, 4)))


def test_what_cannot_be_measured_is_not_predicted():
    """Of a file system in memory: there is no storage, whatever is asked."""
    kept = Disk(None, None, 1e-10, 4, 1.0)
    diagnosis = judge(made_up(disk=kept), Setup(64, 4, cold=True))
    assert not diagnosis.situation.cold
    assert diagnosis.prediction == judge(made_up(disk=kept), Setup(64, 4, cold=False)).prediction
    text = report(diagnosis)
    assert "storage          not measured" in text and "from the page cache" in text
    assert judge(made_up(), Setup(64, 4, cold=True)).situation.cold


def test_another_quality_needs_pixels():
    """A writer keeps JPEGs as they are, whatever the quality."""
    said, slow = "BetonDataset(FILE)", Setup(64, 4, step_seconds=1.0)
    assert said in report(judge(made_up(), slow))
    raw = made_up()
    raw = replace(raw, survey=replace(raw.survey, jpeg=~raw.survey.jpeg))
    text = report(judge(raw, slow))
    assert "jpeg_quality=75" in text and said not in text


def test_a_slow_disk_has_a_speed(monkeypatch):
    slow = Disk(1e-5, 2e-5, 1e-10, 4, 0.0)  # as where payloads have a few bytes
    assert "storage          0.05 MB/s with 4 threads" in report(judge(made_up(disk=slow), Setup(64, 4)))


def test_a_file_larger_than_the_memory_is_read_from_storage(monkeypatch):
    """Of a container, too: its page cache counts within its limit."""
    found = made_up()
    for available, cold in ((found.survey.file_bytes, False), (found.survey.file_bytes - 1, True)):
        monkeypatch.setattr(
            "ffcv_gpu.doctor.diagnosis.available_bytes", lambda available=available: available
        )
        assert judge(found, Setup(64, 4)).situation.cold is cold


def test_reading_ahead_is_advised_where_threads_wait(monkeypatch):
    monkeypatch.setattr("ffcv_gpu.doctor.diagnosis.usable_cpus", lambda: 4)
    diagnosis = judge(made_up(disk=Disk(1e-6, 1e-9, 1e-10, 4, 0.0)), Setup(64, 16, cold=True))
    assert diagnosis.changes[0].what == "os_cache=False, which reads ahead"
    assert not any(c.knob == "cache mode" for c in judge(diagnosis.found, Setup(64, 16, cold=False)).changes)


@pytest.mark.long  # compares real speeds: not on a machine that does other things
def test_tiny_images(make_photo, tmp_path):
    """In batches of 4: those of 16 are made so many at a time that larger ones bring little."""
    images = [make_photo(8, 8, i % 50) for i in range(1500)]
    path = write(tmp_path / "tiny.beton", images, write_mode="raw")
    diagnosis = examine(path, Setup(4, 1, 8))
    assert diagnosis.bottleneck == "one thread"
    larger = judge(diagnosis.found, Setup(512, 1, 8)).prediction.images_per_second
    assert larger > 1.5 * diagnosis.prediction.images_per_second
    (really,) = images_per_cpu_second(path, side=8, batch=4)
    ratio = really / diagnosis.prediction.images_per_second
    assert 1 / 3 < ratio < 3
    (many,) = images_per_cpu_second(path, side=8, batch=512)
    assert many > 1.5 * really
    assert "batch_size=16" in report(diagnosis)


def really_order(really):
    """What was measured, fastest first."""
    return sorted(really, key=really.__getitem__, reverse=True)


@pytest.mark.long
def test_huge_images_and_the_advice_taken(make_photo, tmp_path):
    from ffcv_gpu.fields import rgb_image

    photos = [make_photo(1500, 2000, i) for i in range(8)]
    encoded = [rgb_image.encode_jpeg(photo, 92).tobytes() for photo in photos]
    path = write(tmp_path / "huge.beton", encoded)
    diagnosis = examine(path, Setup(4, 1, SIDE))
    assert diagnosis.bottleneck == "decode"
    (before,) = images_per_cpu_second(path, batch=4, epochs=2)
    assert 1 / 3 < before / diagnosis.prediction.images_per_second < 3
    changes = {change.what: change for change in diagnosis.changes}
    really = {}
    for limit, mode, words in ((512, "jpg", "JPEG, jpeg_quality=90"), (512, "raw", "write_mode='raw'")):
        smaller = write(
            tmp_path / f"{mode}.beton", photos, write_mode=mode, max_resolution=limit, jpeg_quality=90
        )
        change = changes[f"max_resolution={limit}, {words}"]
        predicted = change.prediction.images_per_second / diagnosis.prediction.images_per_second
        (really[words],) = images_per_cpu_second(smaller, batch=4)
        assert predicted > 3
        assert 1 / 5 < really[words] / before / predicted < 5
        payload = sum(item.sum() for item in [loader_of(smaller).dataset.payloads("image").lengths])
        asked = change.file_bytes - diagnosis.found.survey.file_bytes
        saved = payload - int(diagnosis.found.survey.lengths.sum())
        assert asked == pytest.approx(saved, rel=0.25)
    raw, jpeg = (changes[f"max_resolution=512, {words}"].prediction for words in really_order(really))
    assert raw.images_per_second > jpeg.images_per_second  # in the predicted order


def test_a_file_without_images(tmp_path):
    from ffcv_gpu.fields import NDArrayField
    from ffcv_gpu.writer import DatasetWriter

    path = tmp_path / "vectors.beton"
    fields = {"vector": NDArrayField(np.dtype("float32"), (1000,))}
    rows = [(np.full(1000, i, np.float32),) for i in range(200)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(rows)
    diagnosis = examine(path, Setup(64, 1))
    assert diagnosis.bottleneck in ("one thread", "check", "other")
    assert diagnosis.found.costs.density == {}
    assert json.loads(json.dumps(diagnosis.as_dict()))["verdict"] == VERDICTS[diagnosis.bottleneck]


def test_steps_of_ones_own_are_measured(photo_file, found):
    from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder

    steps = [CenterCropRGBImageDecoder((256, 256), 1.0), RandomHorizontalFlip()]
    diagnosis = judge(measure(photo_file, Setup(BATCH, 1, pipelines={"image": steps})), Setup(BATCH, 1))
    assert diagnosis.found.costs.compose[0] + diagnosis.found.costs.compose[1] > 0
    assert diagnosis.load.stages["compose"] > judge(found, Setup(BATCH, 1)).load.stages["compose"]


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"side": 0}, {"step_seconds": 0.0}])
def test_a_wrong_set_up_is_an_error(settings):
    with pytest.raises(PipelineError):
        Setup(**settings)


def test_a_file_that_is_none_is_an_error(tmp_path):
    path = tmp_path / "no.beton"
    path.write_bytes(b"no" * 5000)
    with pytest.raises(FormatError):
        examine(path)

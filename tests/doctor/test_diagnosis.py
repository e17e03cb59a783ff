"""The doctor's verdict in situations made on purpose, and its predictions against what then happens.

Ratios are loose: two shared cores. What must be right is which resource is the limit, and what is faster.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ffcv_gpu.doctor import VERDICTS, Setup, examine, judge, measure, report
from ffcv_gpu.doctor.disk import measure_disk
from ffcv_gpu.errors import FormatError, PipelineError
from ffcv_gpu.loader import dataset as loader_dataset
from ffcv_gpu.readers import PositionedReader
from ffcv_gpu.transforms import RandomHorizontalFlip
from tests.doctor.conftest import BATCH, SIDE, SlowDisk, SlowMap, images_per_second, loader_of, write


def test_a_slow_disk(found, photo_file, monkeypatch):
    slow = SlowDisk(PositionedReader(str(photo_file)), SlowMap.rate)
    disk = measure_disk(found.survey, 1, slow)
    assert 1 / disk.cold == pytest.approx(SlowMap.rate, rel=0.5)
    diagnosis = judge(replace(found, disk=disk), Setup(BATCH, 1, SIDE, cold=True))
    assert diagnosis.bottleneck == "disk"
    assert all(change.file_bytes < found.survey.file_bytes for change in diagnosis.changes[:3])
    monkeypatch.setattr(loader_dataset, "MappedReader", SlowMap)
    assert images_per_second(photo_file, epochs=1) == pytest.approx(
        diagnosis.prediction.images_per_second, rel=0.5
    )


def test_few_cores(found, photo_file):
    diagnosis = judge(found, Setup(BATCH, 1, SIDE))
    assert diagnosis.bottleneck == "decode"
    ratio = images_per_second(photo_file) / diagnosis.prediction.images_per_second
    assert 1 / 3 < ratio < 3
    free = replace(found, costs=replace(found.costs, contention=0.0))  # cores that nobody else uses
    changes = judge(free, Setup(BATCH, 1, SIDE)).changes
    threads = [change for change in changes if change.what.startswith("num_workers=")]
    assert bool(threads) == (diagnosis.situation.cpus > 1)


def test_a_slow_step(found, photo_file):
    diagnosis = judge(found, Setup(BATCH, 1, SIDE, step_seconds=0.2))
    assert diagnosis.bottleneck == "step"
    assert diagnosis.prediction.images_per_second == pytest.approx(BATCH / 0.2)
    really = images_per_second(photo_file, step=0.2, epochs=1)
    assert really == pytest.approx(BATCH / 0.2, rel=0.3)
    for change in diagnosis.changes:  # nothing makes it faster: what is offered saves room
        assert change.prediction.images_per_second == pytest.approx(BATCH / 0.2)
        assert change.file_bytes < found.survey.file_bytes
    assert "save room" in report(diagnosis)


@pytest.mark.long  # compares real speeds: not on a machine that does other things
def test_tiny_images(make_photo, tmp_path):
    images = [make_photo(8, 8, i % 50) for i in range(1500)]
    path = write(tmp_path / "tiny.beton", images, write_mode="raw")
    diagnosis = examine(path, Setup(16, 1, 8))
    assert diagnosis.bottleneck == "one thread"
    larger = judge(diagnosis.found, Setup(512, 1, 8)).prediction.images_per_second
    assert larger > 1.5 * diagnosis.prediction.images_per_second
    ratio = images_per_second(path, side=8, batch=16) / diagnosis.prediction.images_per_second
    assert 1 / 3 < ratio < 3
    assert images_per_second(path, side=8, batch=512) > 1.5 * images_per_second(path, side=8, batch=16)
    assert "larger batches" in report(diagnosis)


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
    before = images_per_second(path, batch=4, epochs=2)
    assert 1 / 3 < before / diagnosis.prediction.images_per_second < 3
    changes = {change.what: change for change in diagnosis.changes}
    really = {}
    for limit, mode, words in ((512, "jpg", "JPEG, jpeg_quality=90"), (512, "raw", "write_mode='raw'")):
        smaller = write(
            tmp_path / f"{mode}.beton", photos, write_mode=mode, max_resolution=limit, jpeg_quality=90
        )
        change = changes[f"max_resolution={limit}, {words}"]
        predicted = change.prediction.images_per_second / diagnosis.prediction.images_per_second
        really[words] = images_per_second(smaller, batch=4)
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

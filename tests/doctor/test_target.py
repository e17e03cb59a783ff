"""A target chooses size and share of JPEGs: by named costs as worked out on paper, measured, and kept."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest

from ffcv_gpu.doctor import Target
from ffcv_gpu.doctor.survey import survey
from ffcv_gpu.errors import PipelineError, SampleError, WriteError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.target import Choice
from ffcv_gpu.format import open_beton
from ffcv_gpu.writer import DatasetWriter
from tests.doctor.conftest import BATCH, SIDE, images_per_cpu_second

HEIGHT, WIDTH = 100, 200
#: milliseconds of one core for an image of that size as JPEG, and for all else of an image
DECODE, OTHER = 1.0, 0.25
COSTS = {"decode_ms": DECODE / (HEIGHT * WIDTH / 1e6), "other_ms": OTHER}


@pytest.fixture(scope="module")
def jpegs(make_jpeg):
    return [make_jpeg(HEIGHT, WIDTH, i) for i in range(200)]


def field(target, **settings):
    return RGBImageField("auto", target=target, **settings)


def write(path, images, target, *, put="from_indexed_dataset", workers=1, **options):
    settings = options.pop("settings", {})
    fields = {"image": field(target, **settings), "label": IntField()}
    writer = DatasetWriter(path, fields, num_workers=workers, progress=False, fsync=False, **options)
    dataset = images if hasattr(images, "stop") else [(image, i) for i, image in enumerate(images)]
    return getattr(writer, put)(dataset, chunksize=7)


def noted(path):
    return open_beton(path).section.info["fields"]["image"]["settings"]


class Fixed:
    """Always chooses the same, and counts how often it was asked."""

    def __init__(self, choice=Choice(0.5, 120), name="fixed"):  # noqa: B008 - frozen
        self.choice, self.name, self.asked = choice, name, []

    def choose(self, field, images, samples):
        self.asked.append((len(images), samples))
        return self.choice

    def as_json(self):
        return {"name": self.name}


@pytest.mark.parametrize(
    ("wish", "cores", "share"),
    # 1000 / (share x DECODE + OTHER) for each core
    [(790, 1, 1.0), (1500, 2, 1.0), (1100, 1, 0.65), (2200, 2, 0.65), (3900, 1, 0.0), (800, 1, 1.0)],
)
def test_the_share_is_as_worked_out(jpegs, wish, cores, share):
    choice = Target(wish, cores, **COSTS).choose(field(wish), jpegs, None)
    assert choice.compress_probability == share
    assert choice.max_resolution is None
    assert choice.images_per_second == pytest.approx(cores * 1e3 / (share * DECODE + OTHER), abs=0.1)
    size = share * np.mean([len(data) for data in jpegs]) + (1 - share) * 3 * HEIGHT * WIDTH
    assert choice.bytes_per_image == pytest.approx(size, abs=0.1)


def test_size_gives_way_only_where_room_is_short(jpegs):
    asked = {"images_per_second": 3000, "cores": 1, "side": 64, **COSTS}
    free = Target(**asked).choose(field(1), jpegs, 200)
    assert (free.compress_probability, free.max_resolution) == (0.05, None)
    tight = Target(**asked, max_bytes=200 * 25_000).choose(field(1), jpegs, 200)
    assert (tight.compress_probability, tight.max_resolution) == (0.2, 128)
    limited = Target(**asked, max_bytes=200 * 38_000).choose(field(1, max_resolution=150), jpegs, 200)
    assert limited.max_resolution == 150


def test_room_short_of_the_smallest_size_is_said(jpegs):
    asked = {"images_per_second": 3000, "cores": 1, "side": 64, "max_bytes": 1e5, **COSTS}
    with pytest.raises(PipelineError, match="take more than max_bytes=100,000 at every size"):
        Target(**asked).choose(field(1), jpegs, 200)
    with pytest.raises(PipelineError, match="max_bytes needs a dataset of known length"):
        Target(**asked).choose(field(1), jpegs, None)


def test_what_cannot_be_reached_is_said_with_the_best(jpegs, tmp_path):
    path = tmp_path / "a.beton"
    with pytest.raises(PipelineError) as caught:
        write(path, jpegs, {"images_per_second": 9000, "cores": 2, **COSTS})
    assert str(caught.value).startswith(
        "target of 9,000 images/s cannot be reached here; the best would be 0%"
    )
    assert "predicted 8,000 images/s on 2 cores" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_the_file_is_what_was_chosen_and_says_so(jpegs, tmp_path):
    path, target = tmp_path / "a.beton", Target(1100, 1, **COSTS)
    report = write(path, jpegs, target)
    settings = noted(path)
    choice = Choice(**settings["choice"])
    assert choice == target.choose(field(target), jpegs, 200)
    assert settings["target"] == {
        "images_per_second": 1100,
        "cores": 1,
        "side": 224,
        "batch_size": 256,
        **COSTS,
    }
    assert report.modes["jpeg pass-through"] == pytest.approx(0.65 * 200, abs=20)
    assert report.modes["raw"] == 200 - report.modes["jpeg pass-through"]
    assert survey(str(path), {}).image_bytes.mean() == pytest.approx(choice.bytes_per_image, rel=0.15)
    assert f"chosen for 'image': {choice}" in str(report)
    assert "65% as JPEG, the rest raw; predicted 1,111 images/s on 1 core" in str(report)
    write(tmp_path / "b.beton", jpegs, target, workers=2)
    assert (tmp_path / "b.beton").read_bytes() == path.read_bytes()


def test_pixels_and_samples_from_all_over_are_looked_at(make_photo, tmp_path):
    images = [make_photo(20 + 20 * (i >= 300), 30) for i in range(600)]
    target = Fixed()
    report = write(tmp_path / "a.beton", images, target)
    ((looked_at, samples),) = target.asked
    assert (looked_at, samples) == (256, 600)
    assert {"raw", "jpeg encoded"} == set(report.modes)


class Photos:
    """JPEGs; stops at sample `stop` once the writer has looked at some."""

    def __init__(self, jpegs, stop=None):
        self.jpegs, self.stop, self.asked = jpegs, stop, []

    def __len__(self):
        return len(self.jpegs)

    def __getitem__(self, k):
        if k == self.stop and len(self.asked) > len(self.jpegs):
            raise KeyboardInterrupt
        self.asked.append(k)
        return self.jpegs[k], k


def test_resuming_keeps_the_choice(jpegs, tmp_path):
    whole, path = tmp_path / "whole.beton", tmp_path / "a.beton"
    write(whole, Photos(jpegs), Fixed(Choice(0.5, None)), resume=True)
    with pytest.raises(KeyboardInterrupt):
        write(path, Photos(jpegs, 120), Fixed(Choice(0.5, None)), resume=True)
    again = Fixed(Choice(0.9, None))
    report = write(path, Photos(jpegs), again, resume=True)
    assert again.asked == []
    assert report.resumed > 30
    assert path.read_bytes() == whole.read_bytes()


def test_resuming_with_another_target_is_refused(jpegs, tmp_path):
    path = tmp_path / "a.beton"
    with pytest.raises(KeyboardInterrupt):
        write(path, Photos(jpegs, 120), Fixed(), resume=True)
    with pytest.raises(WriteError, match=r"another conversion \(different fields\)"):
        write(path, Photos(jpegs), Fixed(name="other"), resume=True)


def test_appending_keeps_the_choice_unless_the_target_is_another(jpegs, tmp_path):
    path = tmp_path / "a.beton"
    write(path, jpegs, Fixed())
    same = Fixed(Choice(0.9, None))
    write(path, jpegs, same, put="append")
    assert same.asked == []
    assert Choice(**noted(path)["choice"]) == Choice(0.5, 120)
    other = Fixed(Choice(0.0, 40), name="other")
    report = write(path, jpegs, other, put="append")
    assert len(other.asked) == 1
    assert survey(str(path), {}).widths[-200:].max() == 40
    assert "0% as JPEG" in str(report)
    write(path, jpegs, Fixed(name="other"), put="append")  # as the last one noted it
    assert survey(str(path), {}).widths[-200:].max() == 40


def test_a_bad_sample_is_named_or_left_out(jpegs, tmp_path):
    images = [*jpegs[:5], b"no image", *jpegs[5:9]]
    with pytest.raises(SampleError, match=r"sample 5 \(dataset\[5\]\), field 'image'"):
        write(tmp_path / "a.beton", images, Fixed())
    target = Fixed()
    report = write(tmp_path / "a.beton", images, target, on_error="skip")
    assert target.asked == [(9, 10)]
    assert [skip.position for skip in report.skipped] == [5]
    with pytest.raises(SampleError, match="none of the samples examined"):
        write(tmp_path / "b.beton", [b"no image"] * 3, Fixed(), on_error="skip")


def test_shards_are_looked_at_from_the_first_on(jpegs, tmp_path):
    fields = {"image": field(target := Fixed()), "label": IntField()}
    shards = {f"s{n}": [(f"k{i}", (jpegs[i], i)) for i in range(n, 60, 3)] for n in range(3)}
    writer = DatasetWriter(tmp_path / "a.beton", fields, num_workers=2, progress=False, fsync=False)
    report = writer._from_streams(list(shards), lambda name: iter(shards[name]))
    assert report.samples == 60
    ((looked_at, samples),) = target.asked
    assert looked_at >= 20
    assert samples is None
    assert survey(str(tmp_path / "a.beton"), {}).widths.max() == 120
    assert report.choices == {"image": str(Choice(0.5, 120))}


def test_one_measured(jpegs, tmp_path):
    before = set(threading.enumerate())
    easy = write(tmp_path / "a.beton", jpegs[:20], {"images_per_second": 1e-3, "side": 64}, workers=2)
    assert before.issuperset(threading.enumerate())
    assert dict(easy.modes) == {"jpeg pass-through": 20}
    choice = Choice(**noted(tmp_path / "a.beton")["choice"])
    assert choice.images_per_second > 10
    assert choice.cores == len(os.sched_getaffinity(0))
    with pytest.raises(PipelineError, match=r"target of 1e\+12 images/s cannot be reached here; the best"):
        Target(1e12, 1, 64).choose(field(1), jpegs[:20], 20)


@pytest.mark.long  # compares real speeds
def test_the_target_is_reached(make_jpeg, tmp_path):
    images, files = [make_jpeg(340, 420, i) for i in range(64)], [tmp_path / "slow", tmp_path / "fast"]
    slow = write(files[0], images, Target(1e-3, 1, SIDE, BATCH))
    assert "100% as JPEG" in slow.choices["image"]
    (before,) = images_per_cpu_second(files[0])
    fast = write(files[1], images, Target(1.8 * before, 1, SIDE, BATCH))
    assert fast.modes["raw"] > 0 or "max_resolution" in fast.choices["image"]
    before, after = images_per_cpu_second(*files)
    assert 1.3 < after / before < 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"images_per_second": 0}, {"images_per_second": "fast"}, {"images_per_second": True},
        {"images_per_second": 9, "cores": 0.5}, {"images_per_second": 9, "cores": 1.5},
        {"images_per_second": 9, "decode_ms": 3.0}, {"images_per_second": float("inf")},
        {"images_per_second": 9, "speed": 3}, {}, "3000", True,
    ],
)  # fmt: skip
def test_a_wrong_target_is_an_error(wrong):
    with pytest.raises(PipelineError, match=r"[Tt]arget"):
        field(wrong)


def test_a_target_is_for_auto_and_needs_a_writer(jpegs):
    for mode, threshold in (("smart", None), (None, None), ("auto", 5)):
        with pytest.raises(PipelineError, match="target= goes with write_mode='auto'"):
            RGBImageField(mode, None, threshold, target=3000)
    open_field = field(3000)
    assert open_field.is_open
    with pytest.raises(PipelineError, match="settled by DatasetWriter"):
        open_field.encode(np.zeros(1, open_field.record_dtype), jpegs[0], lambda size: (0, bytearray(size)))


def test_numbers_mappings_and_targets_mean_the_same():
    settings = [
        field(wish).write_settings() for wish in (3000, {"images_per_second": 3000}, Target(np.int64(3000)))
    ]
    assert settings[0] == settings[1] == settings[2]
    assert json.loads(json.dumps(settings[0]))["target"]["images_per_second"] == 3000
    assert "target" not in RGBImageField("auto").write_settings()

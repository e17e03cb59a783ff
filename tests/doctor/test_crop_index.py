"""An index for crops: when it is advised, and that the file then is and loads as predicted.

Speeds are in pixels that are decoded, which no other process changes; real ones are compared in long tests.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ffcv_gpu.doctor import Setup, Target, crop_index, judge, measure, report
from ffcv_gpu.doctor.advice import advise
from ffcv_gpu.doctor.crop_index import measure_crop_index
from ffcv_gpu.doctor.survey import survey
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv_gpu.jpeg.crop_index import with_crop_index
from ffcv_gpu.jpeg.cropped import Cropped
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from tests.doctor.conftest import BATCH, SIDE, images_per_cpu_second, loader_of, write

SETUP = Setup(BATCH, 1, SIDE)
EPOCHS = 5


@pytest.fixture(scope="module")
def jpegs(make_jpeg):
    """The images of `photo_file`."""
    return [make_jpeg(340, 420, i) for i in range(64)]


@pytest.fixture(scope="module")
def indexed_file(jpegs, tmp_path_factory):
    return write(tmp_path_factory.mktemp("index") / "indexed.beton", jpegs, crop_index=True)


def pixels_per_image(path, decoded):
    """What a loader decodes, in some epochs."""
    loader = loader_of(path)
    decoded.clear()
    for _ in range(EPOCHS):
        list(loader)
    return sum(decoded) / EPOCHS / len(loader.indices)


def changes_of(found, knob):
    """Every change of a knob that is thought of, whether it pays or not, by what it says."""
    diagnosis = judge(found, SETUP)
    nothing = replace(diagnosis.prediction, images_per_second=0.0)
    changes = advise(found.costs, found.disk, found.survey, diagnosis.situation, SIDE, nothing)
    return {change.what: change for change in changes if change.knob == knob}


@pytest.mark.usefixtures("by_pixels")
def test_the_file_is_and_loads_as_predicted(photo_file, indexed_file, decoded):
    diagnosis = judge(measure(photo_file, SETUP), SETUP)
    (change,) = (change for change in diagnosis.changes if change.knob == "crop index")
    assert "crop_index=True" in change.what
    assert change.what in report(diagnosis)
    before, after = (pixels_per_image(path, decoded) for path in (photo_file, indexed_file))
    assert before == 340 * 420
    assert diagnosis.prediction.images_per_second == pytest.approx(1e9 / before, rel=0.01)
    assert after < 0.8 * before
    assert change.prediction.images_per_second == pytest.approx(1e9 / after, rel=0.07)
    added = int(survey(str(indexed_file), {}).lengths.sum()) - int(diagnosis.found.survey.lengths.sum())
    assert added > 64 * 100
    assert change.file_bytes - diagnosis.found.survey.file_bytes == pytest.approx(added, rel=0.02)


@pytest.mark.usefixtures("by_pixels")
def test_a_file_that_has_it(make_jpeg, make_photo, decoded, tmp_path):
    """Its own speed is that of crops, and so is what is said of smaller images, which keep the index.

    Of images of 96 x 77 pixels, five rows of blocks, crops spare fewer than of its own, which have 43.
    """
    fine = [make_jpeg(340, 420, i, subsampling="4:4:4") for i in range(64)]
    indexed_file = write(tmp_path / "fine.beton", fine, crop_index=True)
    found = measure(indexed_file, SETUP)
    assert found.survey.crop_index
    assert found.costs.crop_index is None
    diagnosis = judge(found, SETUP)
    really = pixels_per_image(indexed_file, decoded)
    assert diagnosis.prediction.images_per_second == pytest.approx(1e9 / really, rel=0.07)
    assert not changes_of(found, "crop index")
    assert "crop_index=True in what follows" in report(diagnosis)
    photos = [make_photo(340, 420, i) for i in range(64)]
    small = write(tmp_path / "a.beton", photos, write_mode="jpg", max_resolution=96, crop_index=True)
    change = changes_of(found, "resolution")["max_resolution=96, JPEG, jpeg_quality=90, subsampling='4:2:0'"]
    really = pixels_per_image(small, decoded)
    assert change.prediction.images_per_second == pytest.approx(1e9 / really, rel=0.1)


@pytest.mark.usefixtures("by_pixels")
def test_the_crop_is_that_of_the_pipeline(photo_file):
    half = Setup(BATCH, 1, pipelines={"image": [CenterCropRGBImageDecoder((SIDE, SIDE), 0.5)]})
    facts = survey(str(photo_file), {})
    # 170 x 170 of 340 x 420 pixels, and the rest of the pieces (16 x 64 pixels) that they touch
    share = measure_crop_index(facts, half).seconds_ratio * 340 * 420
    assert 170 * 170 <= share <= (170 + 3 * 16) * (170 + 3 * 64)


def test_nothing_without_a_crop_without_jpegs_and_with_an_index(photo_file, indexed_file, jpegs, tmp_path):
    facts = survey(str(photo_file), {})
    assert measure_crop_index(facts, Setup(BATCH, 1, pipelines={"image": [SimpleRGBImageDecoder()]})) is None
    assert measure_crop_index(survey(str(indexed_file), {}), SETUP) is None
    assert (
        measure_crop_index(survey(str(write(tmp_path / "a", jpegs[:4], write_mode="raw")), {}), SETUP) is None
    )


@pytest.mark.usefixtures("turbojpeg3")
def test_it_is_compared_with_the_decoder_in_use(photo_file, monkeypatch):
    """With libturbojpeg 3, which decodes only what is cropped without an index, too."""
    compared, real = [], crop_index._seconds

    def watched(calls):
        compared.extend((backend, encoded.boxes is not None) for backend, encoded in calls)
        return real(calls)

    monkeypatch.setattr(crop_index, "_seconds", watched)
    assert measure_crop_index(survey(str(photo_file), {}), SETUP) is not None
    assert {(backend.name, cropped) for backend, cropped in compared} == {("turbo3", True)}
    assert {type(backend) for backend, _ in compared} == {Turbo3Backend, Cropped}


@pytest.mark.usefixtures("by_pixels")
def test_a_target_knows_it(jpegs):
    """Decoding is all of the work here, so the speed says how much of each image is decoded."""
    plain, indexed = (
        Target(1.0, 1, SIDE, BATCH).choose(RGBImageField("auto", target=1.0, crop_index=on), jpegs, 64)
        for on in (False, True)
    )
    assert plain.images_per_second == pytest.approx(1e9 / (340 * 420), rel=0.01)
    assert 1.25 < indexed.images_per_second / plain.images_per_second < 2.5
    added = np.mean([len(with_crop_index(data, scan_jpeg(data))) - len(data) for data in jpegs])
    assert indexed.bytes_per_image - plain.bytes_per_image == pytest.approx(added, abs=0.2)


@pytest.mark.long  # compares real speeds
def test_it_loads_as_fast_as_predicted(photo_file, indexed_file, monkeypatch):
    monkeypatch.setattr("ffcv_gpu.native.turbojpeg3.library", lambda: None)
    said = measure_crop_index(survey(str(photo_file), {}), SETUP).seconds_ratio
    before, after = images_per_cpu_second(photo_file, indexed_file, epochs=8)
    assert 0.4 < said < 0.95
    assert after > before
    # decoding is a share of a sample's time that is not known exactly, and at most all of it
    assert before / after > said / 1.1

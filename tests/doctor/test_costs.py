"""Costs of files: of all fields of images, and of the samples that the loader has read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ffcv_gpu.doctor import Setup, examine, judge, measure
from ffcv_gpu.doctor.costs import measure_costs
from ffcv_gpu.doctor.model import load_of
from ffcv_gpu.doctor.survey import survey
from ffcv_gpu.doctor.trial import run_trial
from ffcv_gpu.errors import ReadError
from ffcv_gpu.fields import ImageField, IntField, MaskField, RGBImageField
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.writer import DatasetWriter
from tests.doctor.conftest import BATCH, SIDE

SETUP = Setup(BATCH, 1, SIDE)


def write(path, fields, samples):
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


@pytest.fixture(scope="module")
def stereo(make_jpeg, tmp_path_factory):
    """A left and a right JPEG per sample, the right ones smaller, and a mask."""
    fields = {"right": RGBImageField(), "left": RGBImageField(), "mask": MaskField()}
    mask = np.zeros((20, 30), np.uint8)
    samples = [(make_jpeg(120, 160, i), make_jpeg(240, 320, i), mask) for i in range(32)]
    return write(tmp_path_factory.mktemp("stereo") / "stereo.beton", fields, samples)


@pytest.mark.usefixtures("by_pixels")
def test_all_jpegs_of_a_sample_are_decoded(stereo):
    found = measure(stereo, SETUP)
    assert (found.survey.image, set(found.survey.others)) == ("left", {"right", "mask"})
    diagnosis = judge(found, SETUP)
    assert diagnosis.load.stages["decode"] == pytest.approx(1e-9 * (120 * 160 + 240 * 320), rel=0.01)
    raw = next(c for c in diagnosis.changes if "compress_probability=0 " in c.what)
    assert raw.prediction.images_per_second == pytest.approx(1e9 / (120 * 160), rel=0.01)  # the right ones
    rows = next(c for c in diagnosis.changes if c.knob == "crop index")
    share = found.costs.crop_index.seconds_ratio
    expected = 1e9 / (120 * 160 + share * 240 * 320)
    assert rows.prediction.images_per_second == pytest.approx(expected, rel=0.01)


@pytest.mark.usefixtures("by_pixels")
def test_a_field_that_is_left_out_costs_nothing(stereo):
    crop = [CenterCropRGBImageDecoder((SIDE, SIDE), 1.0)]
    setup = replace(SETUP, pipelines={"left": None, "mask": None, "right": crop})
    found = measure(stereo, setup)
    assert (found.survey.image, found.survey.others) == ("right", ())
    assert judge(found, setup).load.stages["decode"] == pytest.approx(1e-9 * 120 * 160, rel=0.01)
    assert found.survey.bytes_per_sample == found.survey.image_bytes.mean()
    view = PipelineSpec("left", CenterCropRGBImageDecoder((SIDE, SIDE), 1.0))
    setup = replace(SETUP, pipelines={"left": None, "mask": None, "right": None, "view": view})
    found = measure(stereo, setup)
    assert (found.survey.image, found.survey.others) == ("left", ())
    assert judge(found, setup).load.stages["decode"] == pytest.approx(1e-9 * 240 * 320, rel=0.01)


def test_a_file_of_other_images_is_resampled_too(tmp_path, monkeypatch):
    """Depths and masks, about which there is no advice: their crops take time like any other's."""

    def trial(*arguments, **settings):
        real = run_trial(*arguments, **settings)
        return replace(real, stages={"compose": 1e-3 * real.samples, "check": 1e-4 * real.samples})

    monkeypatch.setattr("ffcv_gpu.doctor.costs.run_trial", trial)
    fields = {"depth": ImageField(1, "uint16"), "mask": MaskField(), "label": IntField()}
    grey = np.zeros((40, 50), np.uint8)
    path = write(tmp_path / "depth.beton", fields, [(grey.astype(np.uint16), grey, i) for i in range(20)])
    facts = survey(str(path), {})
    assert (facts.image, facts.others) == (None, ("depth", "mask"))
    load = load_of(measure_costs(facts, SETUP), facts)
    assert load.stages == pytest.approx({"decode": 0.0, "compose": 1e-3, "check": 1e-4, "other": 0.0})


@pytest.mark.usefixtures("decoded")
def test_a_damaged_image_is_named_as_the_loader_does_or_not_looked_at(photo_file, monkeypatch, tmp_path):
    monkeypatch.setattr("ffcv_gpu.doctor.survey.OWN_MEGAPIXELS", 0.1)  # the least number of samples: 16
    content, facts = photo_file.read_bytes(), survey(str(photo_file), {})
    read = facts.own_rows
    for sample in (read[2], read[2] + 1):
        raw, at = bytearray(content), int(facts.offsets[sample])
        raw[at : at + 40] = bytes(40)
        (path := tmp_path / f"{sample}.beton").write_bytes(raw)
        if sample in read:
            with pytest.raises(ReadError, match=rf"sample {sample}, field 'image'"):
                examine(path, SETUP)
        else:
            assert examine(path, SETUP).found.costs.crop_index is not None

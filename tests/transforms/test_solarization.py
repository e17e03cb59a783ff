"""RandomSolarization against torchvision's solarize, and its label."""

import numpy as np
import pytest

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.transforms import LabelSolarization, RandomSolarization


@pytest.mark.parametrize("threshold", [0, 100.5, 128, 255, 256])
def test_each_image_is_torchvisions(photo_file, functional, on_image, threshold):
    step = RandomSolarization(0.5, threshold, seed=2)
    label = LabelSolarization(0.5, threshold, seed=2)
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": [IntDecoder(), label]}
    made, told = photo_file.load(pipelines)
    changed = step.solarized(*photo_file.drawn(pipelines, step))[:, 0]
    assert np.array_equal(told[:, 1], changed) and 0 < changed.sum() < 21
    for image, solarized, its in zip(photo_file.images, made, changed, strict=True):
        expected = image
        if its and threshold <= 255:  # torchvision refuses more
            expected = on_image(functional.solarize, image, threshold)
        assert np.array_equal(solarized, expected)


def test_probability_and_bad_arguments():
    thresholds = RandomSolarization(0.3, 50).amounts(Draws(0, 0, np.arange(20000)), 3)
    assert set(np.unique(thresholds)) == {50.0, 256.0}
    assert (thresholds == 50).mean() == pytest.approx(0.3, abs=0.015)
    with pytest.raises(PipelineError, match="threshold must be a number >= 0 and <= 256"):
        RandomSolarization(0.5, 300)

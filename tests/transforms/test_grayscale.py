"""RandomGrayscale and RandomSolarization against torchvision's functions, and their labels."""

import numpy as np
import pytest

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.transforms import LabelGrayscale, RandomGrayscale


def test_each_image_is_torchvisions(photo_file, functional, on_image):
    step = RandomGrayscale(0.5, seed=2)
    pipelines = {
        "image": [SimpleRGBImageDecoder(), step],
        "label": [IntDecoder(), LabelGrayscale(0.5, seed=2)],
    }
    made, told = photo_file.load(pipelines)
    grey = step.amounts(*photo_file.drawn(pipelines, step))[:, 0]
    assert np.array_equal(told[:, 1], grey) and 0 < grey.sum() < 21
    for image, changed, its in zip(photo_file.images, made, grey, strict=True):
        expected = on_image(functional.rgb_to_grayscale, image, 3) if its else image
        apart = np.abs(changed.astype(int) - expected)
        assert apart.max() <= its and (apart > 0).mean() < 2e-3


def test_probability():
    greys = RandomGrayscale(0.2).amounts(Draws(0, 0, np.arange(20000)), 3)
    assert set(np.unique(greys)) == {0.0, 1.0} and greys.mean() == pytest.approx(0.2, abs=0.01)
    with pytest.raises(PipelineError, match="RandomGrayscale: a probability"):
        RandomGrayscale(-1)

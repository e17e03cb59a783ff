"""Poison against FFCV's formula."""

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import Poison, RandomHorizontalFlip

rng = np.random.default_rng(0)
MASK, ALPHA = rng.integers(0, 256, (40, 48, 3)), rng.random((40, 48)) * (rng.random((40, 48)) < 0.3)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_chosen_samples_are_blended_and_others_stay(photo_file, batch_size):
    step = Poison(MASK, ALPHA, [17, 3, 3, 9000], clamp=(5, 250))
    (made,) = photo_file.load({"image": [SimpleRGBImageDecoder(), step], "label": None}, batch_size)
    opacity = ALPHA[:, :, None]
    exact = np.clip(photo_file.images * (1 - opacity) + MASK * opacity, 5, 250)
    for n in range(21):
        if n in (3, 17):
            assert np.abs(made[n] - exact[n]).max() <= 0.501
        else:
            assert np.array_equal(made[n], photo_file.images[n])


def test_steps_may_follow_and_rows_of_a_subset_are_rows_of_the_file(photo_file):
    step = Poison(MASK, ALPHA, [12])
    pipelines = {"image": [SimpleRGBImageDecoder(), step, RandomHorizontalFlip(1.0)], "label": None}
    (made,) = photo_file.load(pipelines, indices=[11, 12, 13])
    exact = photo_file.images[12] * (1 - ALPHA[:, :, None]) + MASK * ALPHA[:, :, None]
    assert np.abs(made[1][:, ::-1] - exact).max() <= 0.501
    assert np.array_equal(made[[0, 2]][:, :, ::-1], photo_file.images[[11, 13]])


def test_bad_arguments_are_refused(photo_file):
    with pytest.raises(PipelineError, match=r"mask must be \(height, width, channels\)"):
        Poison(MASK[:, :, 0], ALPHA, [1])
    with pytest.raises(PipelineError, match="indices must be rows of the file"):
        Poison(MASK, ALPHA, [-1])
    with pytest.raises(PipelineError, match=r"clamp must be \(low, high\)"):
        Poison(MASK, ALPHA, [1], clamp=(200, 100))
    with pytest.raises(PipelineError, match=r"clamp must be \(low, high\)"):
        Poison(MASK, ALPHA, [1], clamp=0.5)
    with pytest.raises(PipelineError, match="Poison: alpha must be numbers"):
        Poison(MASK, "half", [1])
    steps = [SimpleRGBImageDecoder(), Poison(MASK[:8], ALPHA[:8], [1])]
    with pytest.raises(PipelineError, match=r"does not fit images of \(40, 48, 3\)"):
        Loader(photo_file.path, 4, pipelines={"image": steps})

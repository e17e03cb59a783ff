"""GaussianBlur against torchvision's gaussian_blur with the sigma drawn."""

import numpy as np
import pytest

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import Cutout, GaussianBlur, LabelGaussianBlur, NormalizeImage, ToTensor


@pytest.mark.parametrize("batch_size", [1, 8])
def test_each_image_is_torchvisions(photo_file, functional, on_image, batch_size):
    step = GaussianBlur(0.7, 5, (0.4, 2.0))
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    (made,) = photo_file.load(pipelines, batch_size)
    sigmas = step.sigmas(*photo_file.drawn(pipelines, step))[:, 0]
    assert 0 < (sigmas == 0).sum() < len(sigmas)
    for image, blurred, sigma in zip(photo_file.images, made, sigmas, strict=True):
        expected = on_image(functional.gaussian_blur, image, [5, 5], [sigma, sigma]) if sigma else image
        assert np.abs(blurred.astype(int) - expected).max() <= (1 if sigma else 0)


def test_sigma_is_uniform_and_the_probability_holds():
    step, draws = GaussianBlur(0.3, 5, (0.5, 1.5)), Draws(0, 0, np.arange(20000))
    sigmas = step.sigmas(draws, 1)[:, 0]
    blurred = sigmas[sigmas > 0]
    assert len(blurred) / 20000 == pytest.approx(0.3, abs=0.015)
    assert blurred.min() >= 0.5 and blurred.max() < 1.5
    assert np.quantile(blurred, [0.25, 0.5, 0.75]) == pytest.approx([0.75, 1.0, 1.25], abs=0.03)
    weights = step.amounts(draws, 1, 9, 9)
    assert weights.shape == (20000, 5) and np.allclose(weights.sum(axis=1), 1)


def test_what_follows_is_fused_behind_it_and_explain_says_so(photo_file):
    steps = [SimpleRGBImageDecoder(), GaussianBlur(1.0, 3, 1.0), Cutout(8), NormalizeImage(0, 1, np.float32)]
    with Loader(photo_file.path, 4, pipelines={"image": [*steps, ToTensor()]}) as loader:
        text = loader.explain()
    assert "launch 2 of its own: each pixel depends on its neighbours" in text
    assert "fused launch 3, as a table" in text


def test_the_label_tells_sigma(photo_file):
    step = GaussianBlur(0.5, 5, seed=4)
    label = LabelGaussianBlur(0.5, 5, seed=4)
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": [IntDecoder(), label]}
    image, told = photo_file.load(pipelines)
    sigmas = step.sigmas(*photo_file.drawn(pipelines, step))[:, 0]
    assert told.dtype == np.float32 and told.shape == (21, 2)
    assert np.array_equal(told[:, 0], np.arange(21)) and np.allclose(told[:, 1], sigmas)
    changed = (image != photo_file.images).any(axis=(1, 2, 3))
    assert not changed[sigmas == 0].any() and changed[sigmas > 0.5].sum() >= 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((1.5,), "a probability lies between 0 and 1"),
        ((0.5, 4), "odd number of pixels"),
        ((0.5, 5, (0.0, 2.0)), "0 < low <= high"),
        ((0.5, 5, (1, 2), -1), "seed must be a whole number"),
    ],
)
def test_bad_arguments_are_refused(arguments, says):
    with pytest.raises(PipelineError, match=says):
        GaussianBlur(*arguments)


def test_bad_places_are_refused_when_the_loader_is_made(photo_file):
    for steps, says in [
        ([SimpleRGBImageDecoder(), GaussianBlur(0.5, 99)], "99 is too large for images of 40 x 48"),
        (
            [SimpleRGBImageDecoder(), NormalizeImage(0, 1, np.float32), GaussianBlur(0.5)],
            "put it before the steps that change the values",
        ),
        ([SimpleRGBImageDecoder(), LabelGaussianBlur(0.5, 5, seed=1)], "appends to labels"),
    ]:
        with pytest.raises(PipelineError, match=says):
            Loader(photo_file.path, 4, pipelines={"image": steps})

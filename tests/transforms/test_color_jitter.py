"""Brightness, contrast, saturation, hue against torchvision's functions with the factors drawn."""

import numpy as np
import pytest

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import (
    Cutout,
    LabelColorJitter,
    NormalizeImage,
    RandomBrightness,
    RandomColorJitter,
    RandomContrast,
    RandomHorizontalFlip,
    RandomSaturation,
    ToTensor,
    ToTorchImage,
)

ADJUST = {
    RandomBrightness: "adjust_brightness",
    RandomContrast: "adjust_contrast",
    RandomSaturation: "adjust_saturation",
}


def blended(kind, image, factor):
    """The result before its fraction is cut off, in float64."""
    grey = np.floor(image @ np.array([0.2989, 0.587, 0.114]) + 1e-9)
    other = {RandomBrightness: 0.0, RandomContrast: grey.mean(), RandomSaturation: grey[..., None]}[kind]
    return factor * image + (1 - factor) * other


def assert_close(made, expected, exact):
    """Equal, but for values within a rounding of a whole number before the cut, which may be one apart.

    (A channel that equals the grey of its pixel is such a value: torch rounds it down or not, by luck.)
    """
    apart = np.abs(made.astype(int) - expected)
    assert apart.max() <= 1
    assert (np.abs(exact - np.rint(exact))[apart > 0] < 2e-3).all() and (apart > 0).mean() < 0.1


@pytest.mark.parametrize("kind", ADJUST)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_each_image_is_torchvisions(photo_file, functional, on_image, kind, batch_size):
    step = kind(0.8, 0.7)
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    (made,) = photo_file.load(pipelines, batch_size)
    factors = step.amounts(*photo_file.drawn(pipelines, step))[:, 0]
    assert 0 < (factors == 1).sum() < len(factors)
    for image, changed, factor in zip(photo_file.images, made, factors, strict=True):
        expected = on_image(getattr(functional, ADJUST[kind]), image, float(factor))
        assert_close(changed, expected, blended(kind, image, factor))
        if factor == 1:
            assert np.array_equal(changed, image)


@pytest.mark.parametrize("kind", ADJUST)
def test_factors_are_uniform_around_one_and_cut_at_zero(kind):
    draws = Draws(2, 0, np.arange(20000))
    factors = kind(0.4, 0.3).amounts(draws, 5)[:, 0]
    drawn = factors[factors != 1]
    assert len(drawn) / 20000 == pytest.approx(0.3, abs=0.015)
    assert drawn.min() >= 0.6 and drawn.max() < 1.4
    assert np.quantile(drawn, [0.25, 0.5, 0.75]) == pytest.approx([0.8, 1.0, 1.2], abs=0.03)
    wide = kind(3.0, 1.0).amounts(draws, 5)
    assert wide.min() >= 0 and wide.max() > 3.9 and wide.mean() == pytest.approx(2.0, abs=0.05)


def jittered(functional, on_image, image, factors):
    for name, factor in zip(("brightness", "contrast", "saturation", "hue"), factors, strict=True):
        image = on_image(getattr(functional, f"adjust_{name}"), image, float(factor))
    return image


def test_color_jitter_is_the_four_of_torchvision_in_order(photo_file, functional, on_image):
    step = RandomColorJitter(0.8, 0.4, 0.4, 0.4, 0.1)
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    (made,) = photo_file.load(pipelines)
    factors = step.factors(*photo_file.drawn(pipelines, step))
    for image, changed, drawn in zip(photo_file.images, made, factors, strict=True):
        expected = jittered(functional, on_image, image, drawn)
        # a value that is one apart after one operation may be a few apart after the next three
        apart = np.abs(changed.astype(int) - expected)
        assert np.quantile(apart, 0.99) <= 1 and apart.max() <= 6
        if (drawn == [1, 1, 1, 0]).all():
            assert np.array_equal(changed, image)


def test_hue_alone_is_torchvisions(photo_file, functional, on_image):
    step = RandomColorJitter(1.0, 0, 0, 0, 0.5)
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    (made,) = photo_file.load(pipelines)
    for image, changed, drawn in zip(
        photo_file.images, made, step.factors(*photo_file.drawn(pipelines, step)), strict=True
    ):
        expected = on_image(functional.adjust_hue, image, float(drawn[3]))
        apart = np.abs(changed.astype(int) - expected)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.02


def test_contrast_measures_what_stands_before_it(photo_file, functional, on_image):
    """Crop, mirror, cutout, brightness: the mean is that of the image they make."""
    crop, flip = RandomResizedCropRGBImageDecoder((32, 32)), RandomHorizontalFlip()
    before = [crop, flip, Cutout(12, 255), RandomBrightness(0.5, 1.0)]
    step = RandomContrast(0.9, 1.0)
    (stopped,) = photo_file.load({"image": before, "label": None})
    pipelines = {"image": [*before, step, RandomHorizontalFlip(1.0)], "label": None}
    (made,) = photo_file.load(pipelines)
    factors = step.amounts(*photo_file.drawn(pipelines, step))[:, 0]
    for image, changed, factor in zip(stopped, made[:, :, ::-1], factors, strict=True):
        expected = on_image(functional.adjust_contrast, image, float(factor))
        assert_close(changed, expected, blended(RandomContrast, image, factor))


def test_normalisation_follows_in_the_same_launch(photo_file):
    mean, std = np.array([120.0, 110, 100]), np.array([60.0, 61, 62])
    jitter = RandomColorJitter(1.0, seed=5)
    tail = [ToTensor(), ToTorchImage(channels_last=False), NormalizeImage(mean, std, np.float32)]
    (bytes_,) = photo_file.load({"image": [SimpleRGBImageDecoder(), jitter], "label": None})
    (floats,) = photo_file.load({"image": [SimpleRGBImageDecoder(), jitter, *tail], "label": None})
    expected = ((bytes_ - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    assert np.array_equal(floats, expected)


def test_explain_shows_the_small_launch_and_why(photo_file):
    steps = [SimpleRGBImageDecoder(), RandomColorJitter(0.8), RandomContrast(0.1), ToTensor()]
    with Loader(photo_file.path, 4, pipelines={"image": steps}) as loader:
        lines = loader.explain().splitlines()
    told = {line.split("  ")[2]: line for line in lines if "launch" in line}
    assert told["RandomColorJitter: brightness"].endswith("fused launch 1")
    measured = "after a small launch that measures the mean of the grey image"
    assert told["RandomColorJitter: contrast"].endswith(f"fused launch 2, {measured}")
    assert told["RandomColorJitter: hue"].endswith("fused launch 2")
    assert any(line.endswith(f"fused launch 3, {measured}") for line in lines)


def test_the_label_tells_the_factors(photo_file):
    arguments = (0.5, 0.4, (0.5, 1.5), 0.2, 0.1)
    step, label = RandomColorJitter(*arguments, seed=9), LabelColorJitter(*arguments, seed=9)
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": [IntDecoder(), label, ToTensor()]}
    _, told = photo_file.load(pipelines)
    expected = step.factors(*photo_file.drawn(pipelines, step))
    assert told.shape == (21, 5) and np.array_equal(told[:, 0], np.arange(21))
    assert np.allclose(told[:, 1:], expected) and not (expected == [1, 1, 1, 0]).all()


def test_a_label_that_would_lie_is_refused(photo_file):
    pipelines = {
        "image": [SimpleRGBImageDecoder(), RandomColorJitter(seed=9)],
        "label": [IntDecoder(), LabelColorJitter(seed=9)],
    }
    with pytest.raises(PipelineError, match="their brightness, contrast, saturation, hue differ: the label"):
        Loader(photo_file.path, 4, pipelines=pipelines)
    with pytest.raises(PipelineError, match="LabelColorJitter needs a seed"):
        LabelColorJitter()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RandomBrightness(-0.1), "RandomBrightness: magnitude must be a number >= 0"),
        (lambda: RandomContrast(0.1, 2), "RandomContrast: a probability lies between 0 and 1"),
        (lambda: RandomColorJitter(0.5, "much"), "RandomColorJitter: brightness must be one number or"),
        (lambda: RandomColorJitter(0.5, (1.5, 0.5)), "RandomColorJitter: brightness must be one number >= 0"),
        (lambda: RandomColorJitter(0.5, hue=0.6), "RandomColorJitter: hue must be .* within -0.5 to 0.5"),
        (lambda: RandomSaturation(0.5, seed=-1), "seed must be a whole number >= 0"),
    ],
)
def test_bad_arguments_are_refused(make, says):
    with pytest.raises(PipelineError, match=says):
        make()


def test_colours_behind_a_conversion_are_refused_when_the_loader_is_made(photo_file):
    steps = [SimpleRGBImageDecoder(), NormalizeImage(0, 1, np.float32), RandomBrightness(0.5)]
    with pytest.raises(PipelineError, match=r"RandomBrightness\(magnitude=0.5\) works on uint8 images"):
        Loader(photo_file.path, 4, pipelines={"image": steps})
    with pytest.raises(PipelineError, match="works on images, but field 'label' holds none"):
        Loader(photo_file.path, 4, pipelines={"label": [IntDecoder(), RandomBrightness(0.5)]})

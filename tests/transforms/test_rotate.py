"""Rotate against torchvision's rotate with the angle drawn."""

import numpy as np
import pytest

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import RandomHorizontalFlip, Rotate


def test_each_image_is_torchvisions(photo_file, functional, on_image):
    step = Rotate(0.7, 1.0)
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    (made,) = photo_file.load(pipelines)
    angles = step.angles(*photo_file.drawn(pipelines, step))
    assert 0 < (angles == 0).sum() < len(angles)
    for image, turned, angle in zip(photo_file.images, made, angles, strict=True):
        expected = on_image(functional.rotate, image, float(np.rad2deg(angle)))
        assert (turned != expected).any(axis=-1).mean() < 2e-3


def test_what_comes_in_from_outside(photo_file, functional, on_image):
    step = Rotate(1.0, 0.8, seed=4, fill=(255, 7, 30))
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    (made,) = photo_file.load(pipelines)
    (black,) = photo_file.load({"image": [SimpleRGBImageDecoder(), Rotate(1.0, 0.8, seed=4)], "label": None})
    angles = step.angles(*photo_file.drawn(pipelines, step))
    for image, turned, angle, dark in zip(photo_file.images, made, angles, black, strict=True):
        expected = on_image(functional.rotate, image, float(np.rad2deg(angle)), fill=[255, 7, 30])
        assert (turned != expected).any(axis=-1).mean() < 2e-3
        filled = (turned == (255, 7, 30)).all(axis=-1)
        assert filled.sum() > 20 and (dark[filled] == 0).all()


def test_quarter_turns_are_exact(photo_file, monkeypatch):
    step = Rotate(1.0, np.pi)
    monkeypatch.setattr(step, "angles", lambda draws, draw: np.full(len(draws), np.pi))
    (made,) = photo_file.load({"image": [SimpleRGBImageDecoder(), step], "label": None})
    assert np.array_equal(made, photo_file.images[:, ::-1, ::-1])


def test_the_order_written_is_the_order_computed(photo_file, functional, on_image):
    crop, flip, step = RandomResizedCropRGBImageDecoder((32, 32)), RandomHorizontalFlip(0.5), Rotate(1.0, 0.8)
    (flipped,) = photo_file.load({"image": [crop, flip], "label": None})
    pipelines = {"image": [crop, flip, step], "label": None}
    (made,) = photo_file.load(pipelines)
    angles = step.angles(*photo_file.drawn(pipelines, step))
    for image, turned, angle in zip(flipped, made, angles, strict=True):
        expected = on_image(functional.rotate, image, float(np.rad2deg(angle)))
        assert (turned != expected).any(axis=-1).mean() < 2e-3


def test_angles_are_uniform():
    angles = Rotate(0.5, 0.2).angles(Draws(1, 0, np.arange(20000)), 2)
    turned = angles[angles != 0]
    assert len(turned) / 20000 == pytest.approx(0.5, abs=0.02)
    assert np.abs(turned).max() <= 0.2
    assert np.quantile(turned, [0.25, 0.5, 0.75]) == pytest.approx([-0.1, 0, 0.1], abs=0.01)


def test_a_fill_of_other_channels_is_refused(photo_file):
    pipelines = {"image": [SimpleRGBImageDecoder(), Rotate(fill=(1, 2))]}
    with pytest.raises(PipelineError, match="Rotate: fill has 2 values for images of 3 channels"):
        Loader(photo_file.path, 4, pipelines=pipelines)


def test_bad_arguments_are_refused():
    with pytest.raises(PipelineError, match=r"angle \(radians\) must be a number >= 0"):
        Rotate(0.5, -1)
    with pytest.raises(PipelineError, match="Rotate: fill"):
        Rotate(fill="red")
    with pytest.raises(PipelineError, match="Rotate: a probability"):
        Rotate(2.0)

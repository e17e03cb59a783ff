"""RandomErasing: pixels against torchvision's erase, rectangles against torchvision's distribution."""

import numpy as np
import pytest
import torch

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
from ffcv_gpu.transforms import RandomErasing


def test_pixels_are_torchvisions(photo_file, functional, on_image):
    step = RandomErasing(0.6, mean=(3, 99, 200))
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    (made,) = photo_file.load(pipelines)
    rectangles = step.rectangles(*photo_file.drawn(pipelines, step), 40, 48)
    fill = torch.tensor([3, 99, 200], dtype=torch.uint8)[:, None, None]
    for image, erased, (y0, x0, y1, x1) in zip(photo_file.images, made, rectangles, strict=True):
        expected = on_image(functional.erase, image, y0, x0, y1 - y0, x1 - x0, fill)
        assert np.array_equal(erased, expected)


def test_rectangles_are_distributed_like_torchvisions(torchvision):
    scale, ratio = (0.02, 0.33), (0.3, 3.3)
    corners = RandomErasing(1.0, scale, ratio).rectangles(Draws(5, 0, np.arange(4000)), 7, 60, 90)
    ours = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    torch.manual_seed(0)
    get_params = torchvision.transforms.RandomErasing.get_params
    theirs = np.array([get_params(torch.zeros(3, 60, 90), scale, ratio)[:4] for _ in range(4000)])
    quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
    for column in range(4):
        expected = np.quantile(theirs[:, column], quantiles)
        assert np.quantile(ours[:, column], quantiles) == pytest.approx(expected, abs=3), column
    assert corners[:, :2].min() >= 0 and (corners[:, 2] <= 60).all() and (corners[:, 3] <= 90).all()


def test_probability_and_impossible_rectangles():
    draws = Draws(0, 0, np.arange(10000))
    erased = RandomErasing(0.25).rectangles(draws, 3, 32, 32)[:, 2] > 0
    assert erased.mean() == pytest.approx(0.25, abs=0.02)
    assert not RandomErasing(1.0, (1.0, 1.0), (1, 1)).rectangles(draws, 3, 32, 32).any()


def test_bad_arguments_are_refused():
    for arguments, says in [
        ((0.5, (0, 0.4)), "RandomErasing: scale"),
        ((0.5, (0.1, 0.4), (3, 1)), "RandomErasing: ratio"),
        ((0.5, (0.1, 0.4), (1, 1), "red"), "RandomErasing: mean must be"),
    ]:
        with pytest.raises(PipelineError, match=says):
            RandomErasing(*arguments)

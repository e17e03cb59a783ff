"""RandomTranslate with a seed, and the label that tells the offsets."""

import numpy as np
import pytest
import torch

from ffcv_gpu import ssl
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import (
    Cutout,
    LabelTranslate,
    NormalizeImage,
    RandomHorizontalFlip,
    RandomTranslate,
)


@pytest.mark.parametrize(("kind", "fill"), [(RandomTranslate, 0), (ssl.RandomTranslate, 128)])
def test_the_label_tells_what_the_image_shows(photo_file, kind, fill):
    pipelines = {
        "image": [SimpleRGBImageDecoder(), kind(5, seed=2)],
        "label": [IntDecoder(), LabelTranslate(5, seed=2)],
    }
    image, told = photo_file.load(pipelines)
    padded = np.pad(photo_file.images, ((0, 0), (5, 5), (5, 5), (0, 0)), constant_values=fill)
    for moved, source, (_, dy, dx) in zip(image, padded, told.astype(int), strict=True):
        assert np.array_equal(moved, source[5 + dy :][:40, 5 + dx :][:, :48])


def test_offsets_are_uniform():
    offsets = RandomTranslate(3).offsets(Draws(0, 0, np.arange(35000)), 1)
    for axis in (0, 1):
        counts = np.bincount(offsets[:, axis] + 3, minlength=7)
        assert counts / 35000 == pytest.approx(1 / 7, abs=0.01)


@pytest.mark.parametrize("decoder", ["whole", "crop"])
def test_reflection_is_torchvisions(photo_file, torchvision, decoder):
    head = {"whole": SimpleRGBImageDecoder(), "crop": CenterCropRGBImageDecoder((20, 16), 0.9)}[decoder]
    step = RandomTranslate(15, padding_mode="reflect")
    (plain,) = photo_file.load({"image": [head], "label": None})
    pipelines = {"image": [head, step], "label": None}
    (moved,) = photo_file.load(pipelines)
    pad = torchvision.transforms.Pad(15, padding_mode="reflect")
    padded = pad(torch.from_numpy(plain.transpose(0, 3, 1, 2).copy())).numpy().transpose(0, 2, 3, 1)
    offsets = step.offsets(*photo_file.drawn(pipelines, step)) + 15
    height, width = plain.shape[1:3]
    for made, source, (y, x) in zip(moved, padded, offsets, strict=True):
        assert np.array_equal(made, source[y:, x:][:height, :width])


def test_reflections_behind_what_changed_the_edges_take_a_launch_of_their_own(photo_file):
    def launches(*steps):
        loader = Loader(photo_file.path, 4, pipelines={"image": [SimpleRGBImageDecoder(), *steps]})
        return loader.explain().count("fused launch 2")

    reflect = [RandomTranslate(3, padding_mode="reflect") for _ in range(2)]
    assert launches(RandomHorizontalFlip(), reflect[0], RandomTranslate(3), Cutout(4)) == 0
    assert (
        launches(*reflect) == launches(Cutout(4), reflect[0]) == launches(RandomTranslate(3), reflect[0]) == 1
    )
    late = NormalizeImage(np.zeros(3), np.ones(3), np.float32)
    assert launches(late, reflect[0]) == 0
    with pytest.raises(
        PipelineError, match=r"behind another shift or an erasure works on uint8 images; put it before"
    ):
        launches(Cutout(4), late, reflect[0])


def test_reflections_that_cannot_be_are_refused(photo_file):
    with pytest.raises(PipelineError, match="padding_mode is 'constant' or 'reflect', not 'edge'"):
        RandomTranslate(4, padding_mode="edge")
    for make in (RandomTranslate, ssl.RandomTranslate):
        step = make(40, padding_mode="reflect")
        with pytest.raises(PipelineError, match="cannot reflect images of 48 x 40 pixels"):
            Loader(photo_file.path, 4, pipelines={"image": [SimpleRGBImageDecoder(), step]})

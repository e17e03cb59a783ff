"""RandomHorizontalFlip and RandomTranslate with seeds: shared draws, and labels that tell them."""

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import (
    LabelRandomHorizontalFlip,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    Squeeze,
    ToTensor,
)


def test_flips_of_one_seed_agree_and_the_label_tells_them(photo_file):
    pipelines = {
        "image": [SimpleRGBImageDecoder(), RandomHorizontalFlip(0.5, seed=7)],
        "label": [IntDecoder(), ToTensor(), Squeeze(1), LabelRandomHorizontalFlip(0.5, seed=7)],
        "mask": PipelineSpec("image", transforms=[RandomHorizontalFlip(0.5, seed=7)]),
        "other": PipelineSpec("image", transforms=[RandomHorizontalFlip(0.5, seed=8)]),
        "own": PipelineSpec("image", transforms=[RandomHorizontalFlip(0.5)]),
        "told": PipelineSpec("image", decoder=LabelRandomHorizontalFlip(0.5, seed=7)),
    }
    image, label, mask, other, own, told = photo_file.load(pipelines)
    assert np.array_equal(image, mask)
    assert not np.array_equal(image, other) and not np.array_equal(image, own)
    assert label.shape == (21, 2) and np.array_equal(label[:, :1], np.arange(21)[:, None])
    assert told.shape == (21, 1) and np.array_equal(label[:, 1:], told)
    assert 0 < told.sum() < 21
    expected = np.where(told[:, :, None, None] == 1, photo_file.images[:, :, ::-1], photo_file.images)
    assert np.array_equal(image, expected)


def test_a_seeded_flip_does_not_always_flip_and_changes_with_the_epoch(photo_file):
    pipelines = {"image": None, "label": [LabelRandomHorizontalFlip(0.5, seed=1)]}
    told = np.concatenate([photo_file.load(pipelines, epoch=epoch)[0] for epoch in range(20)])
    assert told.mean() == pytest.approx(0.5, abs=0.08)
    assert len({tuple(epoch) for epoch in told.reshape(20, -1)}) == 20


def test_a_label_of_another_probability_is_refused(photo_file):
    pipelines = {
        "image": [SimpleRGBImageDecoder(), RandomHorizontalFlip(0.5, seed=7)],
        "label": [IntDecoder(), LabelRandomHorizontalFlip(0.4, seed=7)],
    }
    with pytest.raises(PipelineError, match="their flip_prob differ: the label would not match the image"):
        Loader(photo_file.path, 4, pipelines=pipelines)
    with pytest.raises(
        PipelineError, match="give it and its RandomHorizontalFlip the same one, such as seed=1"
    ):
        LabelRandomHorizontalFlip(0.5)


def test_images_are_turned_upside_down(photo_file):
    decoder, flip = SimpleRGBImageDecoder(), RandomVerticalFlip(seed=7)
    image, both = photo_file.load(
        {
            "image": [decoder, flip],
            "label": None,
            "both": PipelineSpec("image", transforms=[RandomVerticalFlip(seed=7), RandomHorizontalFlip(1)]),
        }
    )
    turned = (image != photo_file.images).any(axis=(1, 2, 3))
    assert 0 < turned.sum() < 21
    expected = np.where(turned[:, None, None, None], photo_file.images[:, ::-1], photo_file.images)
    assert np.array_equal(image, expected) and np.array_equal(both, expected[:, :, ::-1])
    flips = PipelineSpec("image", decoder=LabelRandomHorizontalFlip(seed=7))
    (told,) = photo_file.load({"image": None, "label": None, "told": flips})
    assert not np.array_equal(told[:, 0] == 1, turned)  # other numbers than the horizontal flip's

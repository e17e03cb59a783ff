"""Mixup: image and label agree by construction; FFCV's formula; Beta numbers against numpy's."""

import numpy as np
import pytest
import torch

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import (
    Convert,
    ImageMixup,
    LabelMixup,
    MixupToOneHot,
    NormalizeImage,
    RandomHorizontalFlip,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.transforms.mixup import TRIES, symmetric_beta


def pipelines(same_lambda, *, tensors=False, alpha=0.6):
    image = [SimpleRGBImageDecoder(), *([ToTensor(), ToTorchImage()] if tensors else [])]
    label = [IntDecoder(), *([ToTensor()] if tensors else [])]
    return {
        "image": [*image, ImageMixup(alpha, same_lambda)],
        "label": [*label, LabelMixup(alpha, same_lambda)],
    }


@pytest.mark.parametrize("same_lambda", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_label_says_how_the_image_was_mixed(photo_file, same_lambda, batch_size):
    image, label = photo_file.load(pipelines(same_lambda), batch_size)
    assert label.dtype == np.float32 and label.shape == (21, 3)
    own, partner, share = label.T
    assert np.array_equal(own, np.arange(21))
    for start in range(0, 21, batch_size):
        batch = slice(start, min(start + batch_size, 21))
        assert np.array_equal(partner[batch], np.roll(own[batch], 1))
        assert len(set(share[batch])) == (1 if same_lambda else batch.stop - start)
    parts = photo_file.images.astype(np.float64)[[own.astype(int), partner.astype(int)]]
    weight = share[:, None, None, None].astype(np.float64)
    assert np.abs(image - (weight * parts[0] + (1 - weight) * parts[1])).max() <= 0.501


def test_tensors_are_mixed_the_same(photo_file):
    arrays, labels = photo_file.load(pipelines(False))
    tensors, told = photo_file.load(pipelines(False, tensors=True))
    assert np.array_equal(told, labels)
    assert np.abs(tensors.transpose(0, 2, 3, 1).astype(int) - arrays).max() <= 1
    floats = pipelines(False, tensors=True)
    floats["image"].insert(-1, Convert(torch.float32))
    (mixed, _), images = photo_file.load(floats), photo_file.images.transpose(0, 3, 1, 2)
    share = labels[:, 2][:, None, None, None]
    expected = share * images + (1 - share) * images[labels[:, 1].astype(int)]
    assert mixed.dtype == np.float32 and np.allclose(mixed, expected, atol=1e-3)


def test_epochs_and_seeds_differ_and_repeat(photo_file):
    shares = [
        photo_file.load(pipelines(False), seed=seed, epoch=epoch)[1][:, 2]
        for seed, epoch in [(3, 0), (3, 0), (3, 1), (4, 0)]
    ]
    assert np.array_equal(shares[0], shares[1])
    assert not np.array_equal(shares[0], shares[2]) and not np.array_equal(shares[0], shares[3])


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.5, 4.0, 50.0])
def test_beta_numbers_have_the_moments_and_distribution_of_numpys(alpha):
    ours = symmetric_beta(Draws(0, 0, np.arange(40000)).uniform(9, 2 * TRIES), alpha)
    theirs = np.random.default_rng(0).beta(alpha, alpha, 40000)
    assert ours.min() >= 0 and ours.max() <= 1
    assert ours.mean() == pytest.approx(0.5, abs=0.01)
    assert ours.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    limits = np.linspace(0.02, 0.98, 25)
    below = [(numbers[:, None] < limits).mean(axis=0) for numbers in (ours, theirs)]
    assert below[0] == pytest.approx(below[1], abs=0.012)


def test_one_hot_keeps_both_shares_and_its_input():
    told = torch.tensor([[2.0, 0.0, 0.25], [1.0, 1.0, 0.7], [0.0, 2.0, 1.0]])
    before, step = told.clone(), MixupToOneHot(3)
    made = step.apply(told, None)
    expected = torch.tensor([[0.75, 0.0, 0.25], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert torch.allclose(made, expected) and torch.equal(told, before)
    assert np.allclose(step.apply(told.numpy(), None), expected.numpy())
    with pytest.raises(PipelineError, match=r"there is a label 2; labels are 0 to 1"):
        MixupToOneHot(2).apply(told, None)


def test_the_whole_way_to_distributions(photo_file):
    label = [IntDecoder(), LabelMixup(1.0, False), ToTensor(), MixupToOneHot(21)]
    made = photo_file.load({"image": None, "label": label})[0]
    assert made.shape == (21, 21) and np.allclose(made.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("image", "label", "says"),
    [
        ([ImageMixup(0.5, True)], [LabelMixup(0.4, True)], "their alpha differ"),
        ([ImageMixup(0.5, True)], [LabelMixup(0.5, False)], "their same_lambda differ"),
        ([ImageMixup(0.5, True), ToTensor(), RandomHorizontalFlip()], [], "move it before ImageMixup"),
        ([LabelMixup(0.5, True)], [], "needs labels of shape"),
        ([], [ImageMixup(0.5, True)], "use LabelMixup for labels"),
        ([], [MixupToOneHot(4)], "needs the output of LabelMixup"),
        ([], [LabelMixup(1, True), Convert("int64"), MixupToOneHot(4)], "needs the output of LabelMixup"),
    ],
)
def test_what_cannot_agree_is_refused_when_the_loader_is_made(photo_file, image, label, says):
    wanted = {"image": [SimpleRGBImageDecoder(), *image], "label": [IntDecoder(), *label]}
    with pytest.raises(PipelineError, match=says):
        Loader(photo_file.path, 4, pipelines=wanted)


def test_bad_arguments_are_refused():
    with pytest.raises(PipelineError, match="ImageMixup: alpha must be a number > 0"):
        ImageMixup(0, True)
    with pytest.raises(PipelineError, match="num_classes must be a whole number >= 1"):
        MixupToOneHot(0)


def test_ffcvs_usual_pipeline_goes_on_behind_the_mix(photo_file):
    """FFCV puts ImageMixup before ToTensor: what follows works on the finished batch, with equal values."""
    mean, std = np.array([120.0, 110, 100]), np.array([60.0, 61, 62])
    normalize = NormalizeImage(mean, std, np.float32)
    head = [SimpleRGBImageDecoder(), RandomHorizontalFlip(), ImageMixup(0.6, True)]
    (mixed,) = photo_file.load({"image": head, "label": None})
    (flipped,) = photo_file.load({"image": [*head, RandomHorizontalFlip(1.0)], "label": None})
    assert np.array_equal(flipped, mixed[:, :, ::-1])
    expected = ((mixed - mean) / std).astype(np.float32)
    (arrays,) = photo_file.load({"image": [*head, normalize], "label": None})
    assert arrays.dtype == np.float32 and np.allclose(arrays, expected, atol=1e-5)
    tail = [ToTensor(), ToTorchImage(channels_last=False), normalize]
    (tensors,) = photo_file.load({"image": [*head, *tail], "label": None})
    assert np.allclose(tensors, expected.transpose(0, 3, 1, 2), atol=1e-5)
    with Loader(photo_file.path, 4, pipelines={"image": [*head, *tail]}) as loader:
        assert "needs the finished batch" in loader.explain()

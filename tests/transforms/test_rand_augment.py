"""RandAugment and TrivialAugment: torchvision's operation with torchvision's magnitude, sample by sample."""

import numpy as np
import pytest
import torch

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import RandAugment, ToTensor, TrivialAugment
from ffcv_gpu.transforms.rand_augment import INDEX, OPERATIONS, RAND, SIGNED, TRIVIAL

EXACT = {"Identity", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"}


@pytest.fixture(scope="module")
def v2(torchvision):
    return torchvision.transforms.v2


@pytest.mark.parametrize("bins", [2, 10, 31])
def test_operations_and_magnitudes_are_torchvisions(v2, bins):
    for theirs, ours in ((v2.RandAugment, RAND), (v2.TrivialAugmentWide, TRIVIAL)):
        space = theirs._AUGMENTATION_SPACE
        assert tuple(space) == OPERATIONS
        assert {name for name, (_, signed) in space.items() if signed} == SIGNED
        for name, (function, _) in space.items():
            expected = function(bins, 40, 48)
            assert (expected is None) == (name not in ours)
            if expected is not None:
                assert np.array_equal(ours[name](bins, 40, 48), expected.double().numpy())


def by_torchvision(v2, image, operation, magnitude):
    augment = v2.RandAugment()
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    made = augment._apply_image_or_video_transform(
        planes, OPERATIONS[operation], float(magnitude), augment.interpolation, augment._fill
    )
    return made.numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("step", [RandAugment(1, 17), TrivialAugment()], ids=["rand", "trivial"])
def test_each_image_is_torchvisions(photo_file, v2, step):
    seen = set()
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    for epoch in range(8):
        (made,) = photo_file.load(pipelines, epoch=epoch)
        draws, draw = photo_file.drawn(pipelines, step, epoch=epoch)
        operations, magnitudes = step.rounds()[0].drawn(draws, draw, 40, 48)
        for image, changed, operation, magnitude in zip(
            photo_file.images, made, operations, magnitudes, strict=True
        ):
            expected = by_torchvision(v2, image, operation, magnitude)
            name = OPERATIONS[operation]
            seen.add(name)
            apart = np.abs(changed.astype(int) - expected)
            if name in EXACT or name.startswith("Translate"):
                assert apart.max() == 0, name
            elif name in ("ShearX", "ShearY", "Rotate"):
                # positions right between two pixels: rounding decides
                assert (apart > 0).any(axis=-1).mean() < 0.02, name
            else:
                # values whose exact result is a whole number, and is cut off: see test_color_jitter.py
                assert apart.max() <= 1 and (apart > 0).mean() < 0.06, name
    assert seen == set(OPERATIONS)


def test_two_rounds_are_one_after_the_other(photo_file, v2):
    step = RandAugment(2, 15)
    pipelines = {"image": [SimpleRGBImageDecoder(), step], "label": None}
    (made,) = photo_file.load(pipelines)
    draws, draw = photo_file.drawn(pipelines, step)
    first, second = (each.drawn(draws, draw, 40, 48) for each in step.rounds())
    assert not np.array_equal(first[0], second[0])
    same = 0
    for n, image in enumerate(photo_file.images):
        for operations, magnitudes in (first, second):
            image = by_torchvision(v2, image, operations[n], magnitudes[n])
        same += (np.abs(made[n].astype(int) - image) <= 1).mean() > 0.98
    assert same == 21


def test_every_operation_is_as_likely_and_signs_are_even():
    step = TrivialAugment()
    operations, magnitudes = step.rounds()[0].drawn(Draws(0, 0, np.arange(42000)), 1, 32, 32)
    counts = np.bincount(operations, minlength=len(OPERATIONS))
    assert counts / 42000 == pytest.approx(1 / 14, abs=0.006)
    turned = magnitudes[operations == INDEX["Rotate"]]
    assert (turned < 0).mean() == pytest.approx(0.5, abs=0.04)
    assert len(np.unique(np.abs(turned))) == 31


def test_explain_shows_every_launch(photo_file):
    pipeline = [SimpleRGBImageDecoder(), RandAugment(), ToTensor()]
    with Loader(photo_file.path, 4, pipelines={"image": pipeline}) as loader:
        text = loader.explain()
    assert text.count("of its own") == 6 and text.count("measures the mean") == 2
    assert "RandAugment: round 2, Sharpness" in text


def test_no_rounds_change_nothing(photo_file):
    (made,) = photo_file.load({"image": [SimpleRGBImageDecoder(), RandAugment(0)], "label": None})
    assert np.array_equal(made, photo_file.images)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RandAugment(-1), "num_ops must be a whole number >= 0"),
        (lambda: RandAugment(2, 31), "magnitude must be 0 to 30"),
        (lambda: TrivialAugment(1), "num_magnitude_bins must be a whole number >= 2"),
        (lambda: TrivialAugment(fill="red"), "TrivialAugment: fill must be a number"),
    ],
)
def test_bad_arguments_are_refused(make, says):
    with pytest.raises(PipelineError, match=says):
        make()


def test_a_fill_of_other_channels_is_refused_when_the_loader_is_made(photo_file):
    pipelines = {"image": [SimpleRGBImageDecoder(), RandAugment(fill=(1, 2))]}
    with pytest.raises(PipelineError, match="fill has 2 values for images of 3 channels"):
        Loader(photo_file.path, 4, pipelines=pipelines)

"""What is allowed and hardly ever meant is said once, when the Loader is made; what is meant is not."""

import logging

import numpy as np
import pytest
import torch

from ffcv_gpu.fields import ImageField, IntField, MaskField, RaggedField, RGBImageField
from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    IntDecoder,
    PadRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
    ResizedRGBImageDecoder,
)
from ffcv_gpu.fields.ragged import BoxDecoder, KeypointDecoder, RaggedDecoder
from ffcv_gpu.format import MIN_PAGE_SIZE
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    ImageMixup,
    LabelMixup,
    LabelRandomHorizontalFlip,
    NormalizeImage,
    Poison,
    RandAugment,
    RandomBrightness,
    RandomErasing,
    RandomHorizontalFlip,
    RandomTranslate,
    ReplaceLabel,
    Rotate,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SHARES = NormalizeImage(MEAN, STD, "float32")
LEVELS = NormalizeImage(np.multiply(MEAN, 255), np.multiply(STD, 255), "float32")
CROP, FLIP, TURN = RandomResizedCropRGBImageDecoder((8, 8)), RandomHorizontalFlip(), Rotate()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("doubts") / "a.beton"
    fields = {
        "image": RGBImageField(),
        "mask": MaskField(),
        "depth": ImageField(1, "float32"),
        "boxes": RaggedField("float32", 4),
        "points": RaggedField("float32", 2),
        "label": IntField(),
    }
    grey = np.zeros((20, 30), np.uint8)
    rows = [(np.zeros((20, 30, 3), np.uint8), grey, grey.astype(np.float32), [[1, 2, 3, 4]], [[1, 2]], 3)] * 2
    DatasetWriter(path, fields, MIN_PAGE_SIZE, 1).from_indexed_dataset(rows)
    return path


def said(caplog, path, **pipelines):
    caplog.clear()
    dropped = dict.fromkeys(["image", "mask", "depth", "boxes", "points", "label"])
    with caplog.at_level(logging.WARNING):
        loader = Loader(path, 2, pipelines=dropped | pipelines)
    next(iter(loader))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("before", [[], [FLIP, Convert("float32")]])
def test_statistics_of_images_in_0_to_1(path, caplog, before):
    (text,) = said(caplog, path, image=[CROP, *before, SHARES])
    assert text.startswith("pipeline 'image': NormalizeImage(mean=(0.485") and "by 255" in text


@pytest.mark.parametrize(
    "steps",
    [
        [LEVELS],
        [NormalizeImage([0], [255], "float32")],
        [NormalizeImage([0], [1], "float32")],
        [NormalizeImage([0], [255], "float32"), SHARES],
        [ToTensor(), torch.nn.Identity(), SHARES],
    ],
)
def test_other_statistics(path, caplog, steps):
    assert not said(caplog, path, image=[CROP, *steps])


def test_float_images_may_be_in_0_to_1(path, caplog):
    assert not said(caplog, path, depth=[CROP, NormalizeImage([0.4], [0.2], "float32")])


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ([LEVELS, RandomErasing()], 1),
        ([LEVELS, RandomTranslate(2, fill=(124, 116, 103)), Cutout(2, fill=-3)], 2),
        ([RandomErasing(), LEVELS], 0),
        ([LEVELS, RandomErasing(mean=0), Cutout(2), RandomTranslate(2, fill=2.2)], 0),
    ],
)
def test_fills_in_grey_levels_behind_normalisation(path, caplog, steps, count):
    texts = said(caplog, path, image=[CROP, *steps])
    assert len(texts) == count
    assert all("where values are -2.12 to 2.64: put it before" in text for text in texts)


def test_angles_in_degrees(path, caplog):
    (text,) = said(caplog, path, image=[CROP, Rotate(0.5, 10), FLIP])
    assert "Rotate(angle=10) turns by more than a whole turn" in text and "math.radians(10)" in text
    assert not said(caplog, path, image=[CROP, Rotate(0.5, 2 * np.pi)])


def crop():
    return RandomResizedCropRGBImageDecoder((8, 8))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ([crop(), FLIP], [crop(), FLIP]),
        ([CROP, RandomHorizontalFlip()], [CROP, RandomHorizontalFlip()]),
        ([CROP, FLIP], [CROP]),
        ([CROP, RandAugment()], [CROP]),
        ([CROP, TURN, FLIP], [CROP, FLIP, TURN]),
        ([CenterCropRGBImageDecoder((8, 8), 0.5)], [CenterCropRGBImageDecoder((8, 8), 1)]),
        ([CROP], [PadRGBImageDecoder()]),
    ],
)
def test_a_mask_that_fits_no_image(path, caplog, image, mask):
    (text,) = said(caplog, path, image=image, mask=mask)
    assert text.startswith("pipeline 'mask': a mask, but no image output is cropped")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ([CROP, RandomBrightness(0.2), FLIP, TURN, Cutout(2)], [CROP, FLIP, TURN]),
        ([CROP, RandomHorizontalFlip(seed=1)], [CROP, RandomHorizontalFlip(seed=1)]),
        ([CROP, RandomTranslate(2, seed=1)], [CROP, RandomTranslate(2, fill=255, seed=1)]),
        ([CenterCropRGBImageDecoder((8, 8), 1)], [CenterCropRGBImageDecoder((4, 4), 1)]),
        ([PadRGBImageDecoder(), FLIP], [PadRGBImageDecoder(), FLIP]),
        (None, [CROP]),
    ],
)
def test_a_mask_that_fits(path, caplog, image, mask):
    assert not said(caplog, path, image=image, mask=mask)


def test_a_mask_needs_one_of_several_views(path, caplog):
    second = PipelineSpec("image", crop(), [])
    assert not said(caplog, path, image=[CROP], mask=[CROP], second=second)


def test_torchvisions_transforms_before_the_layout(path, caplog, torchvision):
    from torchvision.transforms import v2

    turn, dtype = v2.RandomHorizontalFlip(1.0), v2.ToDtype(torch.float32)
    (text,) = said(caplog, path, image=[CROP, ToTensor(), dtype, turn, ToTorchImage()])
    assert text.startswith("pipeline 'image': ModuleWrapper(module=RandomHorizontalFlip")
    assert text.endswith("put ToTorchImage() before it")
    for steps in ([ToTorchImage(), turn], [dtype, ToTorchImage()], [lambda x: x.permute(0, 3, 1, 2), turn]):
        assert not said(caplog, path, image=[CROP, ToTensor(), *steps])


def test_pixels_that_only_torchvision_moves(path, caplog, torchvision):
    from torchvision.transforms import v2

    head, flip = [CROP, ToTensor(), ToTorchImage()], v2.RandomHorizontalFlip(1.0)
    for module in (flip, v2.Compose([flip]), torch.nn.Sequential(v2.RandomApply([flip]))):
        image = [*head, module]
        (text,) = said(caplog, path, image=image, boxes=[BoxDecoder("image")])
        assert "'boxes': like='image', but does not follow torchvision's RandomHorizontalFlip" in text
        for mask in (head, image):
            (text,) = said(caplog, path, image=image, mask=mask)
            assert text.startswith("pipeline 'mask': a mask, but no image output is cropped")
    invert, smaller = v2.RandomInvert(), v2.Resize((4, 4))
    assert not said(caplog, path, image=[*head, invert], mask=head, boxes=[BoxDecoder("image")])
    assert not said(caplog, path, image=[*head, smaller], mask=[*head, smaller])


def test_labels_of_what_nothing_draws(path, caplog):
    wrong = LabelRandomHorizontalFlip(seed=2)
    (text,) = said(caplog, path, image=[CROP, RandomHorizontalFlip(seed=1)], label=[wrong])
    assert "LabelRandomHorizontalFlip(seed=2) reports what no image's step draws" in text
    assert not said(caplog, path, image=[CROP, RandomHorizontalFlip(seed=2)], label=[IntDecoder(), wrong])


def test_chosen_samples_that_the_file_has_not(path, caplog):
    """Nothing was poisoned, and nothing said so."""
    poison = [Poison(np.zeros((8, 8, 3)), np.zeros((8, 8)), rows) for rows in ([0, 2], [0, 1])]
    (text,) = said(caplog, path, image=[CROP, poison[0]])
    assert "'image': Poison(" in text and "is for row 2" in text and "rows 0 to 1" in text
    (text,) = said(caplog, path, image=[CROP], label=[IntDecoder(), ReplaceLabel([99], 0)])
    assert "'label': ReplaceLabel(" in text
    replaced = [IntDecoder(), ReplaceLabel([], 0), ReplaceLabel([1], 0)]
    assert not said(caplog, path, image=[CROP, poison[1]], label=replaced)


def test_torchvisions_normalisation_of_grey_levels(path, caplog, torchvision):
    from torchvision.transforms import v2

    head, normalise = [CROP, ToTensor(), ToTorchImage()], v2.Normalize(MEAN, STD)
    (text,) = said(caplog, path, image=[*head, Convert("float32"), normalise])
    assert text.startswith("pipeline 'image': ModuleWrapper(module=Normalize") and "by 255" in text
    assert not said(caplog, path, image=[*head, v2.ToDtype(torch.float32, scale=True), normalise])


def test_views_that_are_equal(path, caplog):
    steps = [FLIP, RandomBrightness(0.5), ToTensor()]
    (text,) = said(caplog, path, image=[CROP, *steps], second=PipelineSpec("image", CROP, steps))
    assert text.startswith("outputs 'image' and 'second' are equal, because the same step objects")


@pytest.mark.parametrize(
    "second",
    [
        PipelineSpec("image", CROP, [RandomHorizontalFlip(), ToTensor()]),
        PipelineSpec("image", CROP, [FLIP, RandomBrightness(0.5), ToTensor()]),
        PipelineSpec("image", CROP, [FLIP, LEVELS, ToTensor()]),
    ],
)
def test_views_that_differ(path, caplog, second):
    assert not said(caplog, path, image=[CROP, FLIP, ToTensor()], second=second)


def test_modules_may_draw_for_themselves(path, caplog):
    steps = [FLIP, ToTensor(), torch.nn.Identity()]
    assert not said(caplog, path, image=[CROP, *steps], second=PipelineSpec("image", CROP, steps))


@pytest.mark.parametrize("boxes", [[], [RaggedDecoder(pad_to=3)]])
def test_boxes_beside_a_cropped_image(path, caplog, boxes):
    (text,) = said(caplog, path, image=[CROP], boxes=boxes)
    assert text.startswith(
        "pipeline 'boxes': arrays (n, 4) come as they were stored, but the pixels of 'image'"
    )


def test_points_beside_a_cropped_image(path, caplog):
    (text,) = said(caplog, path, image=[CROP], points=[])
    assert text.startswith("pipeline 'points': arrays (n, 2)") and text.endswith("KeypointDecoder('image')")
    assert not said(caplog, path, image=[CROP], points=[KeypointDecoder("image")])


def test_whole_images_in_one_size_are_moved_alike(path, caplog):
    def whole():
        return [ResizedRGBImageDecoder((8, 8))]

    assert not said(caplog, path, image=whole(), mask=whole(), boxes=[BoxDecoder("image")])
    (text,) = said(caplog, path, image=whole(), boxes=[])
    assert "the pixels of 'image' are moved" in text


def test_mixed_images_whose_labels_are_not(path, caplog):
    mixed = [CROP, ToTensor(), ImageMixup(1.0, True)]
    (text,) = said(caplog, path, image=mixed, label=[])
    assert text.startswith("pipeline 'image': ImageMixup") and text.endswith("the list of 'label'")
    assert not said(caplog, path, image=mixed, label=[IntDecoder(), ToTensor(), LabelMixup(1.0, True)])
    assert not said(caplog, path, image=mixed) and not said(caplog, path, image=[CROP], label=[])


@pytest.mark.parametrize(
    ("image", "boxes"),
    [(CROP, BoxDecoder("image")), (PadRGBImageDecoder(), RaggedDecoder()), (None, RaggedDecoder())],
)
def test_boxes_where_they_belong(path, caplog, image, boxes):
    assert not said(caplog, path, image=image and [image], boxes=[boxes])


def test_a_filtered_loader_does_not_repeat_it(path, caplog):
    loader = Loader(path, 2, num_workers=1, pipelines={"image": [CROP, ToTensor(), SHARES]})
    assert caplog.text.count("scale both by 255") == 1
    loader.filter("label", lambda value: True)
    loader.filter("image", lambda value: True)
    assert caplog.text.count("scale both by 255") == 1

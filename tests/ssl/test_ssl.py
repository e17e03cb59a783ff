"""FFCV-SSL's names: crops by seed, corners, padding, its Loader; results against OpenCV and numpy."""

import cv2
import numpy as np
import pytest

from ffcv_gpu import ssl, transforms
from ffcv_gpu.crops import center_crop, corner_crop, crop_beside
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import Cutout, RandomHorizontalFlip, ToTensor
from ffcv_gpu.writer import DatasetWriter

SIZES = [(30 + 3 * (i % 5), 50 - 4 * (i % 4)) for i in range(13)]


@pytest.fixture(scope="module")
def many_sizes(tmp_path_factory, make_photo):
    images = [make_photo(*size, seed) for seed, size in enumerate(SIZES)]
    path = tmp_path_factory.mktemp("ssl") / "photos.beton"
    fields = {"image": RGBImageField(), "label": IntField()}
    samples = [(image, i) for i, image in enumerate(images)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path, images


def load(path, pipelines, batch_size=5, seed=1, **more):
    with Loader(path, batch_size, 2, seed=seed, drop_last=False, pipelines=pipelines, **more) as loader:
        batches = [tuple(np.asarray(part) for part in batch) for batch in loader]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def resized(image, box, size):
    y, x, h, w = box
    return cv2.resize(image[y : y + h, x : x + w], size, interpolation=cv2.INTER_AREA)


def test_crops_of_one_seed_are_one_crop_and_the_label_tells_it(many_sizes):
    path, images = many_sizes
    pipelines = {
        "image": [ssl.RandomResizedCrop((16, 16), seed=4)],
        "label": None,
        "small": PipelineSpec("image", decoder=ssl.RandomResizedCrop((8, 8), seed=4)),
        "other": PipelineSpec("image", decoder=ssl.RandomResizedCrop((16, 16), seed=5)),
        "crop": PipelineSpec(
            "image", decoder=ssl.LabelRandomResizedCrop((16, 16), 4), transforms=[ToTensor()]
        ),
    }
    image, small, other, crop = load(path, pipelines)
    assert crop.dtype == np.int32 and crop.shape == (13, 6)
    assert not np.array_equal(image, other)
    for n, (width, height, *box) in enumerate(crop.tolist()):
        assert (height, width) == SIZES[n]
        assert np.abs(resized(images[n], box, (16, 16)).astype(int) - image[n]).max() <= 1
        assert np.abs(resized(images[n], box, (8, 8)).astype(int) - small[n]).max() <= 1
    assert len(set(crop[:, 4] / crop[:, 5])) > 5  # not squares


def test_a_crop_beside_another_does_not_meet_it(many_sizes):
    path, _ = many_sizes
    scale = (0.1, 0.5)
    pipelines = {
        "image": [ssl.RandomResizedCrop((16, 16), scale, seed=6, second_seed=4)],
        "label": None,
        "taken": PipelineSpec("image", decoder=ssl.LabelRandomResizedCrop((8, 8), 4, scale)),
        "beside": PipelineSpec("image", decoder=ssl.LabelRandomResizedCrop((8, 8), 6, scale, second_seed=4)),
    }
    _, taken, beside = load(path, pipelines)
    for (width, height, y, x, h, w), (_, _, top, left, tall, wide) in zip(
        taken.tolist(), beside.tolist(), strict=True
    ):
        assert top + tall <= y or y + h <= top or left + wide <= x or x + w <= left
        assert top >= 0 and left >= 0 and top + tall <= height and left + wide <= width
    with pytest.raises(PipelineError, match="seed and second_seed must differ"):
        ssl.RandomResizedCrop((8, 8), seed=1, second_seed=1)


def test_crop_beside_a_box_that_leaves_nothing_is_any_crop():
    sides = np.array([10, 20]), np.array([30, 20])
    whole = np.array([[0, 0, 10, 30], [0, 0, 20, 20]], np.int32)
    u = Draws(0, 0, np.arange(2)).uniform(1, 22)
    boxes = crop_beside(u, whole, *sides, (0.1, 0.5), (0.75, 4 / 3))
    assert (boxes[:, 2:] >= 1).all() and (boxes[:, :2] + boxes[:, 2:] <= np.stack(sides, axis=1)).all()


@pytest.mark.parametrize("corner", ["top_left", "top_right", "bottom_left", "bottom_right"])
def test_corner_crops_are_the_corner_they_say(many_sizes, corner):
    path, images = many_sizes
    (made,) = load(path, {"image": [ssl.CornerCrop((12, 12), 0.5, corner)], "label": None})
    for image, cropped in zip(images, made, strict=True):
        side = int(0.5 * min(image.shape[:2]))
        y = image.shape[0] - side if "bottom" in corner else 0
        x = image.shape[1] - side if "right" in corner else 0
        assert np.abs(resized(image, (y, x, side, side), (12, 12)).astype(int) - cropped).max() <= 1
    with pytest.raises(PipelineError, match="corner must be one of top_left"):
        ssl.CornerCrop((12, 12), 0.5, "middle")


def test_corner_and_centre_have_one_side():
    heights, widths = np.array([10, 21]), np.array([15, 7])
    assert np.array_equal(
        corner_crop(heights, widths, 0.7, bottom=True, right=True)[:, 2:],
        center_crop(heights, widths, 0.7)[:, 2:],
    )
    assert ssl.CenterCrop((4, 4), 0.5).boxes(None, 0, heights, widths).tolist() == [
        [2, 5, 5, 5],
        [9, 2, 3, 3],
    ]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_padding_fills_up_to_the_largest_sides_of_the_file(many_sizes, batch_size):
    path, images = many_sizes
    steps = [ssl.PadRGBImageDecoder(), RandomHorizontalFlip(1.0), Cutout(3, 9)]
    plain, flipped = load(
        path,
        {
            "image": [ssl.PadRGBImageDecoder()],
            "label": None,
            "flipped": PipelineSpec("image", steps[0], steps[1:]),
        },
        batch_size,
        indices=[1, 4, 6],
    )
    assert plain.shape == (3, 42, 50, 3)
    for padded, n in zip(plain, [1, 4, 6], strict=True):
        expected = np.zeros((42, 50, 3), np.uint8)
        expected[: SIZES[n][0], : SIZES[n][1]] = images[n]
        assert np.array_equal(padded, expected)
    apart = (flipped[:, :, ::-1] != plain).any(axis=-1)
    assert apart.sum(axis=(1, 2)).max() <= 9


def test_names_that_mean_the_same_are_the_same():
    for name in set(ssl.__all__) & set(transforms.__all__) - {"RandomResizedCrop", "RandomTranslate"}:
        assert getattr(ssl, name) is getattr(transforms, name)
    assert ssl.RandomTranslate(2).fill == (128.0, 128.0, 128.0)


def test_the_loader_takes_the_forks_arguments_and_maps_outputs_to_fields(many_sizes):
    path, _ = many_sizes
    crop, label = ssl.RandomResizedCrop((8, 8), seed=2), ssl.LabelRandomResizedCrop((8, 8), 2)
    pipelines = {
        "image": [crop, ToTensor()],
        "label": [IntDecoder(), ToTensor()],
        "image2": [ssl.RandomResizedCrop((8, 8)), ToTensor()],
        "crop": [label, ToTensor()],
        "plain": [RandomHorizontalFlip(1.0), ToTensor()],
    }
    mapper = {"image2": "image", "crop": "image", "plain": "label"}
    with pytest.raises(PipelineError, match="works on images, but field 'label' holds none"):
        ssl.Loader(path, 4, ssl.OrderOption.RANDOM, pipelines=pipelines, custom_field_mapper=mapper)
    del pipelines["plain"], mapper["plain"]
    loader = ssl.Loader(
        path,
        4,
        ssl.OrderOption.RANDOM,
        num_workers=1,
        seed=3,
        pipelines=pipelines,
        custom_field_mapper=mapper,
    )
    image, labels, image2, told = next(iter(loader))
    assert image.shape == image2.shape == (4, 8, 8, 3) and told.shape == (4, 6)
    assert not np.array_equal(image, image2)
    assert labels[:, 0].tolist() == np.random.default_rng(3).permutation(13)[:4].tolist()
    loader.close()
    plain = {"order": OrderOption.RANDOM, "num_workers": 1, "seed": 3, "pipelines": pipelines}
    kinds = {"image": RGBImageField, "image2": RGBImageField}  # scripts name the views here as well
    plain = Loader(path, 4, custom_field_mapper=mapper, custom_fields=kinds, **plain)
    assert np.array_equal(next(iter(plain))[2], image2)
    assert plain.filter("image2", lambda image: True).indices.size == 13
    with pytest.raises(PipelineError, match="there is no pipeline 'view'"):
        ssl.Loader(path, 4, ssl.OrderOption.RANDOM, custom_field_mapper={"view": "image"})
    with pytest.raises(PipelineError, match=r"order must be one of ffcv_gpu.ssl.OrderOption"):
        ssl.Loader(path, 4, 2)


def test_sequential_contiguous_gives_each_rank_one_part(many_sizes, monkeypatch):
    path, _ = many_sizes
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        order = ssl.OrderOption.SEQUENTIAL_CONTIGUOUS
        options = {"distributed": True, "seed": 0, "drop_last": False, "pipelines": {"image": None}}
        loader = ssl.Loader(path, 4, order, **options)
        parts.append(loader.next_traversal_order().tolist())
        assert len(loader) == 2
    assert parts == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 0, 1]]
    assert [option.value for option in ssl.OrderOption] == [1, 2, 3, 4]

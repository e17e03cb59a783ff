"""Grey, transparent, 16-bit and float images through the Loader, beside OpenCV, Pillow and plain RGB."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ffcv_gpu.errors import FormatError, PipelineError
from ffcv_gpu.fields import ImageField, IntField, RGBImageField
from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
    ResizedRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    NormalizeImage,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomTranslate,
    Squeeze,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter

N = 13
FIELDS = {
    "rgb": RGBImageField("raw"),
    "grey": ImageField(),
    "rgba": ImageField(4),
    "deep": ImageField(dtype="uint16"),
    "deep3": ImageField(3, "uint16"),
    "real": ImageField(2, "float32"),
    "label": IntField(),
}


@pytest.fixture(scope="module")
def samples(make_photo):
    rows = []
    for k in range(N):
        photo = make_photo(60 + 7 * (k % 4), 90 - 5 * (k % 3), k)
        alpha = np.full_like(photo[..., :1], 255 - k)
        deep = photo.astype(np.uint16) * 257
        real = np.stack([photo[..., 0] / 255 - 0.5, photo[..., 1] * 1e3], -1).astype(np.float32)
        rows.append((photo, photo[..., 1], np.concatenate([photo, alpha], 2), deep[..., 1], deep, real, k))
    return rows


@pytest.fixture(scope="module")
def path(samples, tmp_path_factory):
    path = tmp_path_factory.mktemp("kinds") / "kinds.beton"
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 2, progress=False).from_indexed_dataset(samples, chunksize=3)
    return path


def load(path, pipelines, **options):
    """All of one epoch, by output."""
    chosen = dict.fromkeys(FIELDS) | pipelines
    options = {"num_workers": 2, "seed": 5, "drop_last": False, **options}
    loader = Loader(path, 5, pipelines=chosen, **options)
    names = [name for name in chosen if chosen[name] is not None]
    columns = zip(*loader, strict=True)
    return {
        name: torch.cat(c) if torch.is_tensor(c[0]) else np.concatenate(c)
        for name, c in zip(names, columns, strict=True)
    }


def squares(samples, column):
    """The central square of each image, as CenterCropRGBImageDecoder(ratio=1) cuts it."""
    for row in samples:
        image = row[column] if row[column].ndim == 3 else row[column][..., None]
        side = min(image.shape[:2])
        y, x = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        yield np.ascontiguousarray(image[y : y + side, x : x + side])


@pytest.mark.parametrize("size", [(24, 24), (33, 48), (100, 90)])
@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("name", [name for name in FIELDS if name != "label"])
def test_crops_are_opencvs(path, samples, name, size, os_cache):
    found = load(path, {name: [CenterCropRGBImageDecoder(size, 1)]}, os_cache=os_cache)[name]
    channels = FIELDS[name].channels if name != "rgb" else 3
    dtype = getattr(FIELDS[name], "dtype", "uint8")
    assert found.shape == (N, *size, channels) and found.dtype == dtype
    for row, square in zip(found, squares(samples, list(FIELDS).index(name)), strict=True):
        expected = cv2.resize(square, size[::-1], interpolation=cv2.INTER_AREA).reshape(row.shape)
        off = np.abs(row.astype(np.float64) - expected.astype(np.float64)).max()
        assert off <= (1 if dtype == "uint8" else 0)


@pytest.mark.parametrize("size", [(24, 24), (33, 148), (100, 90)])
def test_whole_images_of_any_shape_in_one_size(path, samples, size):
    whole, fine = ResizedRGBImageDecoder(size), ResizedRGBImageDecoder(size, resize="antialias")
    area, pillow = load(path, {"rgb": [whole], "real": [whole]}), load(path, {"rgb": [fine]})
    for k, row in enumerate(samples):
        photo, real = row[0], row[5]
        expected = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(area["rgb"][k].astype(int) - expected).max() <= 1
        expected = cv2.resize(real, size[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(area["real"][k], expected)
        expected = np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR))
        assert np.abs(pillow["rgb"][k].astype(int) - expected).max() <= 1


def test_whole_floor_divisions_are_means(path, samples, tmp_path):
    # Not by OpenCV: shrinking by a whole number with INTER_AREA is the mean of boxes.
    rng = np.random.default_rng(3)
    deep = rng.integers(0, 65536, (32, 48, 1), np.uint16)
    real = rng.normal(size=(32, 48, 2)).astype(np.float32)
    fields = {"deep": ImageField(1, "uint16"), "real": ImageField(2, "float32")}
    DatasetWriter(tmp_path / "a.beton", fields, MIN_PAGE_SIZE, 1).from_indexed_dataset([(deep, real)])
    crop = CenterCropRGBImageDecoder((8, 8), 1)
    ((found, floats),) = list(Loader(tmp_path / "a.beton", 1, pipelines={"deep": [crop], "real": [crop]}))
    means = deep[:, 8:40].reshape(8, 4, 8, 4, 1).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(found[0] - means).max() <= 0.5 + 1e-6
    means = real[:, 8:40].reshape(8, 4, 8, 4, 2).astype(np.float64).mean(axis=(1, 3))
    np.testing.assert_allclose(floats[0], means, atol=1e-6)


@pytest.mark.parametrize("order", [OrderOption.SEQUENTIAL, OrderOption.RANDOM])
def test_one_crop_and_flip_for_all_kinds(path, order):
    crop, flip = RandomResizedCropRGBImageDecoder((32, 40)), RandomHorizontalFlip()
    names = ["rgb", "grey", "rgba", "deep", "deep3", "real"]
    found = load(path, {name: [crop, flip] for name in names}, order=order)
    # 8 bits: the very values of the RGB images' channels
    np.testing.assert_array_equal(found["grey"][..., 0], found["rgb"][..., 1])
    np.testing.assert_array_equal(found["rgba"][..., :3], found["rgb"])
    assert (found["rgba"][..., 3].min(axis=(1, 2)) == found["rgba"][..., 3].max(axis=(1, 2))).all()
    # more bits: those of which 8 bits are the rounding
    np.testing.assert_array_equal(found["deep"][..., 0], found["deep3"][..., 1])
    assert np.abs(found["deep3"] / 257 - found["rgb"]).max() <= 1.01
    assert np.abs((found["real"][..., 0] + 0.5) * 255 - found["rgb"][..., 0]).max() <= 1.01
    again = load(path, {name: [crop, flip] for name in names}, order=order, num_workers=1)
    np.testing.assert_array_equal(again["real"], found["real"])


def test_mirrors_are_exact(path):
    decoder = CenterCropRGBImageDecoder((32, 40), 0.9)
    names = ["grey", "rgba", "deep", "real"]
    plain = load(path, {name: [decoder] for name in names})
    mirrored = load(path, {name: [decoder, RandomHorizontalFlip(1)] for name in names})
    for name in names:
        np.testing.assert_array_equal(mirrored[name], plain[name][:, :, ::-1])


@pytest.mark.parametrize("name", ["grey", "rgba"])
def test_antialias_is_pillows(path, samples, name):
    found = load(path, {name: [CenterCropRGBImageDecoder((30, 20), 1, resize="antialias")]})[name]
    for row, square in zip(found, squares(samples, list(FIELDS).index(name)), strict=True):
        for channel in range(row.shape[2]):
            image = Image.fromarray(np.ascontiguousarray(square[..., channel]))
            expected = np.asarray(image.resize((20, 30), Image.Resampling.BILINEAR)).astype(int)
            assert np.abs(row[..., channel] - expected).max() <= 1


def test_8_bit_images_are_fused_to_the_end(path):
    crop = RandomResizedCropRGBImageDecoder((32, 32))
    grey = [
        crop,
        RandomTranslate(3, 77),
        Cutout(9, 5),
        ToTensor(),
        ToTorchImage(),
        NormalizeImage(100, 50, np.float16),
    ]
    rgb = [crop, *grey[1:]]
    rgb[5] = NormalizeImage([100] * 3, [50] * 3, np.float16)
    found = load(path, {"grey": grey, "rgb": rgb})
    assert found["grey"].shape == (N, 1, 32, 32) and found["grey"].dtype == torch.float16
    torch.testing.assert_close(found["grey"][:, 0], found["rgb"][:, 1], rtol=0, atol=0)
    four = [crop, Cutout(9, (1, 2, 3, 4)), RandomResizedCrop((0.5, 1), (1, 1), 20)]
    assert load(path, {"rgba": four})["rgba"].shape == (N, 20, 20, 4)
    text = Loader(path, 2, pipelines=dict.fromkeys(FIELDS) | {"grey": grey}).explain()
    assert "as a table of 256 values" in text


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", ["deep", "deep3", "real"])
def test_tensors_in_both_layouts(path, name, channels_last):
    crop = CenterCropRGBImageDecoder((16, 24), 1)
    plain = load(path, {name: [crop]})[name]
    found = load(path, {name: [crop, ToTensor(), ToTorchImage(channels_last)]})[name]
    assert found.dtype == getattr(torch, FIELDS[name].dtype)
    np.testing.assert_array_equal(found.numpy(), plain.transpose(0, 3, 1, 2))


def test_steps_behind_deep_images_work_on_the_finished_batch(path):
    crop = CenterCropRGBImageDecoder((16, 24), 1)
    plain = load(path, {"deep3": [crop]})["deep3"].astype(np.float64)
    mean, std = np.array([1e4, 2e4, 3e4]), np.array([5e3, 6e3, 7e3])
    steps = [crop, ToTensor(), ToTorchImage(), NormalizeImage(mean, std, np.float32)]
    found = load(path, {"deep3": steps})["deep3"]
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), (plain - mean) / std, rtol=1e-5, atol=1e-5)
    found = load(path, {"deep3": [crop, NormalizeImage(mean, std, np.float32)]})["deep3"]
    np.testing.assert_allclose(found, (plain - mean) / std, rtol=1e-6, atol=1e-6)
    found = load(path, {"deep3": [crop, ToTensor(), Convert(torch.float32)]})["deep3"]
    np.testing.assert_array_equal(found.numpy(), plain)
    text = Loader(path, 2, pipelines=dict.fromkeys(FIELDS) | {"deep3": steps}).explain()
    assert "one by one in OpenCV (uint16)" in text


def test_floats_that_are_no_numbers_stay_so(tmp_path):
    image = np.array([[np.nan, np.inf], [-np.inf, 1e-42]], np.float32)
    DatasetWriter(tmp_path / "a.beton", {"x": ImageField(1, "float32")}).from_indexed_dataset([(image,)])
    ((found,),) = list(Loader(tmp_path / "a.beton", 1))
    np.testing.assert_array_equal(found[0, ..., 0].numpy(), image)


def test_images_of_one_size_need_no_decoder(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (6, 9, 7, 1), np.uint16)
    grey = (deep >> 8).astype(np.uint8)
    fields = {"deep": ImageField(dtype="uint16"), "grey": ImageField()}
    path = tmp_path / "a.beton"
    DatasetWriter(path, fields, MIN_PAGE_SIZE, 1).from_indexed_dataset(list(zip(deep, grey, strict=True)))
    ((found, small),) = list(Loader(path, 6))
    np.testing.assert_array_equal(found.numpy(), deep)
    np.testing.assert_array_equal(small.numpy(), grey)
    crop = RandomResizedCrop((0.5, 1), (0.8, 1.2), 5)
    pipelines = {"deep": [SimpleRGBImageDecoder(), crop], "grey": [SimpleRGBImageDecoder(), crop, ToTensor()]}
    ((found, small),) = list(Loader(path, 6, pipelines=pipelines))
    assert np.abs(found / 256 - small.numpy() - 0.5).max() <= 1.01
    ((_, small),) = list(Loader(path, 6, pipelines={"grey": [ToTensor(), Squeeze(3)]}))
    assert small.shape == (6, 9, 7)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([CenterCropRGBImageDecoder((8, 8), 1, resize="antialias")], "uint16 images support only resize="),
        (
            [CenterCropRGBImageDecoder((8, 8), 1), Cutout(2)],
            "Cutout.* works on 8-bit images, but field 'deep'",
        ),
        (
            [CenterCropRGBImageDecoder((8, 8), 1), RandomTranslate(2)],
            "RandomTranslate.* works on 8-bit images",
        ),
        (
            [CenterCropRGBImageDecoder((8, 8), 1), RandomResizedCrop((1, 1), (1, 1), 8)],
            "RandomResizedCrop.* 8-bit images",
        ),
        ([CenterCropRGBImageDecoder((8, 8), 1), NormalizeImage(0, [1, 2], np.float32)], "2 values"),
    ],
)
def test_what_deep_images_cannot_have(path, steps, says):
    with pytest.raises(PipelineError, match=says):
        list(Loader(path, 2, pipelines=dict.fromkeys(FIELDS) | {"deep": steps}))


def test_a_size_that_does_not_fit_the_bytes_is_refused(path, tmp_path):
    damaged = tmp_path / "a.beton"
    DatasetWriter(damaged, {"x": ImageField()}, MIN_PAGE_SIZE, 1).from_indexed_dataset(
        [(np.zeros((4, 6), np.uint8),)]
    )
    beton = open_beton(damaged, {"x": ImageField().metadata_type})
    data = bytearray(damaged.read_bytes())
    data[beton.layout.metadata_offset + 1] = 5
    # without our section: a file of FFCV's has no sums
    data[beton.section.offset : beton.table_offset] = bytes(beton.table_offset - beton.section.offset)
    damaged.write_bytes(data)
    with pytest.raises(FormatError, match="24 bytes are not an image of 5 x 4 pixels of 1 bytes"):
        Loader(damaged, 1)


def test_our_verbs_know_our_fields(path):
    from typer.testing import CliRunner

    from ffcv_gpu.cli.app import app

    info = CliRunner().invoke(app, ["info", str(path)])
    assert info.exit_code == 0 and "ImageField" in info.output, info.output
    verify = CliRunner().invoke(app, ["verify", str(path)])
    assert verify.exit_code == 0, verify.output

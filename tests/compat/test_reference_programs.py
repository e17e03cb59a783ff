"""The import lines and calls of FFCV's CIFAR example and of ffcv-imagenet, with the import renamed.

What needs a GPU there runs here with ``device="cpu"``; everything else stands as in the programs.
"""

from pathlib import Path

import numpy as np
import pytest
import torch as ch

from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.basics import IntDecoder
from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
from ffcv_gpu.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    NormalizeImage,
    RandomHorizontalFlip,
    RandomTranslate,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.transforms.common import Squeeze
from ffcv_gpu.writer import DatasetWriter

CIFAR_MEAN, CIFAR_STD = [125.307, 122.961, 113.8575], [51.5865, 50.847, 51.255]
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406]) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225]) * 255
N = 30


class Small:
    """CIFAR-like pictures: PIL images and labels, as torchvision's datasets give."""

    def __init__(self, make_photo):
        self.images = [make_photo(32, 32, seed) for seed in range(N)]

    def __len__(self):
        return N

    def __getitem__(self, i):
        from PIL import Image

        return Image.fromarray(self.images[i]), i % 10


@pytest.fixture(scope="module")
def cifar(tmp_path_factory, make_photo):
    folder, dataset = tmp_path_factory.mktemp("cifar"), Small(make_photo)
    for name in ("train", "test"):
        writer = DatasetWriter(str(folder / f"{name}.beton"), {"image": RGBImageField(), "label": IntField()})
        writer.from_indexed_dataset(dataset)
    return folder, np.stack(dataset.images)


def cifar_loaders(folder, torchvision, batch_size=8, num_workers=2):
    loaders = {}
    for name in ["train", "test"]:
        label_pipeline: list[Operation] = [IntDecoder(), ToTensor(), ToDevice("cuda:0"), Squeeze()]
        image_pipeline: list[Operation] = [SimpleRGBImageDecoder()]
        if name == "train":
            image_pipeline.extend(
                [
                    RandomHorizontalFlip(),
                    RandomTranslate(padding=2, fill=tuple(map(int, CIFAR_MEAN))),
                    Cutout(4, tuple(map(int, CIFAR_MEAN))),
                ]
            )
        image_pipeline.extend(
            [
                ToTensor(),
                ToDevice("cuda:0", non_blocking=True),
                ToTorchImage(),
                Convert(ch.float16),
                torchvision.transforms.Normalize(CIFAR_MEAN, CIFAR_STD),
            ]
        )
        ordering = OrderOption.RANDOM if name == "train" else OrderOption.SEQUENTIAL
        loaders[name] = Loader(
            str(folder / f"{name}.beton"), batch_size=batch_size, num_workers=num_workers,
            order=ordering, drop_last=(name == "train"),
            pipelines={"image": image_pipeline, "label": label_pipeline}, device="cpu",
        )  # fmt: skip
    return loaders


def test_the_cifar_program(cifar, torchvision):
    folder, pixels = cifar
    loaders = cifar_loaders(folder, torchvision)
    assert len(loaders["train"]) == 3 and len(loaders["test"]) == 4
    for ims, labs in loaders["train"]:
        assert ims.shape == (8, 3, 32, 32) and ims.dtype == ch.float16 and ims.flip(-1).shape == ims.shape
        assert labs.shape == (8,) and labs.dtype == ch.int64
    ims, labs = (ch.cat(parts) for parts in zip(*loaders["test"], strict=True))
    assert labs.tolist() == [i % 10 for i in range(N)]
    mean, std = ch.tensor(CIFAR_MEAN)[:, None, None], ch.tensor(CIFAR_STD)[:, None, None]
    expected = (ch.from_numpy(pixels).permute(0, 3, 1, 2) - mean) / std
    assert (ims.float() - expected).abs().max() < 0.01  # float16, as the program has it


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory, make_photo):
    """The writing script's calls, on pictures of many sizes."""
    dataset = [(make_photo(90 + 7 * (i % 5), 120 - 6 * (i % 4), i), i) for i in range(N)]
    path = tmp_path_factory.mktemp("imagenet") / "train.beton"
    writer = DatasetWriter(
        str(path),
        {
            "image": RGBImageField(
                write_mode="proportion", max_resolution=100, compress_probability=0.5, jpeg_quality=90.0
            ),
            "label": IntField(),
        },
        num_workers=2,
    )
    writer.from_indexed_dataset(dataset, chunksize=100)
    RGBImageField(write_mode="smart", max_resolution=100, compress_probability=None, jpeg_quality=90.0)
    return str(path)


def train_loader(path, decoder, order, in_memory):
    image_pipeline: list[Operation] = [
        decoder,
        RandomHorizontalFlip(),
        ToTensor(),
        ToDevice(ch.device("cuda:0"), non_blocking=True),
        ToTorchImage(),
        NormalizeImage(IMAGENET_MEAN, IMAGENET_STD, np.float16),
    ]
    label_pipeline: list[Operation] = [
        IntDecoder(),
        ToTensor(),
        Squeeze(),
        ToDevice(ch.device("cuda:0"), non_blocking=True),
    ]
    return Loader(
        path, batch_size=8, num_workers=2, order=order, os_cache=in_memory, drop_last=True,
        pipelines={"image": image_pipeline, "label": label_pipeline}, distributed=0, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("in_memory", [0, 1])
@pytest.mark.parametrize("order", [OrderOption.RANDOM, OrderOption.QUASI_RANDOM])
def test_the_imagenet_program_trains_with_growing_pictures(imagenet, order, in_memory):
    assert Path(imagenet).is_file()
    decoder = RandomResizedCropRGBImageDecoder((32, 32))
    loader = train_loader(imagenet, decoder, order, in_memory)
    assert len(loader) == 3
    for res in (32, 64):
        decoder.output_size = (res, res)
        seen = []
        for images, target in loader:
            assert images.shape == (8, 3, res, res) and images.dtype == ch.float16
            assert images.is_contiguous(memory_format=ch.channels_last) and ch.isfinite(images).all()
            seen += target.tolist()
        assert len(seen) == len(set(seen)) == 24 and set(seen) <= set(range(N))


def test_the_imagenet_program_validates(imagenet):
    cropper = CenterCropRGBImageDecoder((64, 64), ratio=224 / 256)
    pipelines = {
        "image": [cropper, ToTensor(), ToDevice(ch.device("cuda:0"), non_blocking=True), ToTorchImage(),
                  NormalizeImage(IMAGENET_MEAN, IMAGENET_STD, np.float16)],
        "label": [IntDecoder(), ToTensor(), Squeeze(), ToDevice(ch.device("cuda:0"), non_blocking=True)],
    }  # fmt: skip
    loader = Loader(imagenet, batch_size=8, num_workers=2, order=OrderOption.SEQUENTIAL, drop_last=False,
                    pipelines=pipelines, distributed=0, device="cpu")  # fmt: skip
    parts = [(ch.flip(images, dims=[3]).shape[0], target.tolist()) for images, target in loader]
    assert [count for count, _ in parts] == [8, 8, 8, 6] and len(loader) == 4
    assert [label for _, target in parts for label in target] == list(range(N))

"""A file of raw images and JPEGs, pipelines for it, and how batches of a GPU and of the CPU are compared."""

from __future__ import annotations

import numpy as np
import simplejpeg
import torch

from ffcv_gpu.fields import BytesField, IntField, NDArrayField, RGBImageField
from ffcv_gpu.fields.decoders import (
    BytesDecoder,
    IntDecoder,
    NDArrayDecoder,
    RandomResizedCropRGBImageDecoder,
)
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.transforms import (
    Cutout,
    NormalizeImage,
    RandomHorizontalFlip,
    RandomTranslate,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter

N = 41
MEAN, STD = np.array([124.0, 117.0, 104.0]), np.array([58.0, 57.0, 57.0])
SETTINGS = {"seed": 3, "order": OrderOption.RANDOM, "drop_last": False, "num_workers": 2}


class Mixed:
    """Sample i: JPEG bytes for `share` of the samples, else pixels; label; vector; text."""

    def __init__(self, make_photo, share, size=None):
        self.sizes = [size or (60 + 7 * (i % 5), 80 - 3 * (i % 7)) for i in range(N)]
        self.photos = [make_photo(*side, seed=i) for i, side in enumerate(self.sizes)]
        self.share = share

    def __len__(self):
        return N

    def __getitem__(self, i):
        jpeg = (i * 7919 % N) / N < self.share
        kind = "420" if i % 2 else "444"
        image = simplejpeg.encode_jpeg(self.photos[i], 92, colorsubsampling=kind) if jpeg else self.photos[i]
        vector = np.arange(6, dtype=np.float32).reshape(2, 3) * i
        return image, i * 10, vector, np.frombuffer(b"x" * (i % 5), np.uint8)


def write_mixed(path, dataset):
    """Write the file: image, label, vector, text."""
    fields = {
        "image": RGBImageField(),
        "label": IntField(),
        "vector": NDArrayField(np.dtype("float32"), (2, 3)),
        "text": BytesField(),
    }
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(dataset)
    return path


def crop(device=0, dtype=np.float16, channels_last=True):
    """A pipeline of images that one launch makes; `device` None: on the CPU."""
    there = [] if device is None else [ToDevice(device)]
    return [
        RandomResizedCropRGBImageDecoder((24, 28)), RandomHorizontalFlip(), RandomTranslate(4, (5, 6, 7)),
        Cutout(7, (200, 0, 3)), ToTensor(), *there, ToTorchImage(channels_last=channels_last),
        NormalizeImage(MEAN, STD, dtype),
    ]  # fmt: skip


def number(device=0):
    """A pipeline of labels, (N,)."""
    return [IntDecoder(), ToTensor(), *([] if device is None else [ToDevice(device)]), Squeeze(1)]


def pipelines(device=0, **more):
    """Pipelines of all fields; those in `more` are others."""
    there = [] if device is None else [ToDevice(device)]
    given = {
        "vector": [NDArrayDecoder(), ToTensor(), *there],
        "text": [BytesDecoder(), ToTensor(), *there],
    }
    return {"image": crop(device), "label": number(device), **given, **more}


def on_cpu(path, made, batch_size=8, epochs=1, **settings):
    """The batches of some epochs, made on the CPU."""
    loader = Loader(path, batch_size, pipelines=made, **{**SETTINGS, **settings})
    return [batch for _ in range(epochs) for batch in loader]


def kept(fake, loader, epochs=1):
    """All batches, read only at the very end."""
    batches = [batch for _ in range(epochs) for batch in loader]
    fake.owner.consumer.synchronize()
    return batches


def same_batches(got, expected):
    """Assert that types, shapes, strides and values are equal."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert a.ndim < 4 or a.stride() == b.stride()
            assert torch.equal(a, b)

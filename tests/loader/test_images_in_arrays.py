"""FFCV's steps on images work on any stored array of three axes, as on an image field of the same pixels."""

import logging

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import IntField, NDArrayField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    ImageMixup,
    LabelMixup,
    NormalizeImage,
    Poison,
    RandomBrightness,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomTranslate,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter
from tests.small_file import epoch

N, SHAPE, MEAN = 6, (10, 8, 3), np.full(3, 100.0)
TORCH = [ToTensor(), ToTorchImage(), Convert(torch.float32)]


def write(path, fields, samples):
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (N, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def twins(pixels, tmp_path_factory):
    """The same pixels as images and as arrays."""
    folder = tmp_path_factory.mktemp("twins")
    kinds = {"image": RGBImageField(write_mode="raw"), "array": NDArrayField(np.dtype("u1"), SHAPE)}
    for name, field in kinds.items():
        write(folder / name, {"x": field, "label": IntField()}, [(x, i) for i, x in enumerate(pixels)])
    return folder


STEPS = {
    "flip": lambda: [RandomHorizontalFlip()],
    "flip, translate, cutout": lambda: [RandomHorizontalFlip(), RandomTranslate(2), Cutout(3, (1, 2, 3))],
    "crop, colour": lambda: [RandomResizedCrop((0.3, 1), (1, 1), 6), RandomBrightness(0.5, 1.0)],
    "poison": lambda: [Poison(np.full(SHAPE, 9.0), np.full(SHAPE[:2], 0.5), [1, 4])],
    "normalise": lambda: [RandomHorizontalFlip(), NormalizeImage(MEAN, MEAN / 2, np.float32)],
    "mixup": lambda: [ImageMixup(0.5, True), RandomHorizontalFlip()],
}  # fmt: skip


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("ends", [[], TORCH], ids=["", "torch"])
def test_arrays_of_pixels_are_images(twins, steps, ends):
    label = [IntDecoder(), LabelMixup(0.5, True)] if "Mixup" in repr(steps()) else [IntDecoder()]
    found = []
    for name, decoder in (("image", SimpleRGBImageDecoder()), ("array", NDArrayDecoder())):
        pipelines = {"x": [decoder, *steps(), *ends], "label": label}
        (batch,) = Loader(twins / name, N, seed=3, pipelines=pipelines)
        found.append(batch)
    (images, labels), (arrays, others) = found
    assert images.dtype == arrays.dtype and images.shape == arrays.shape
    assert np.array_equal(images, arrays) and np.array_equal(labels, others)
    assert not ends or images.stride() == arrays.stride()


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    """Six bands of float32."""
    values = np.random.default_rng(1).random((N, 9, 7, 6), np.float32)
    path = tmp_path_factory.mktemp("spectra") / "x.beton"
    return write(path, {"x": NDArrayField(np.dtype("f4"), values.shape[1:])}, [(x,) for x in values]), values


def test_arrays_of_other_types_are_moved_and_erased(spectra):
    path, values = spectra

    def first(*steps):
        ((batch,),) = Loader(path, N, seed=1, pipelines={"x": [NDArrayDecoder(), *steps]})
        return batch

    assert np.array_equal(first(RandomHorizontalFlip(1)), values[:, :, ::-1])
    found = first(ToTensor(), ToTorchImage())
    assert torch.equal(found, torch.tensor(values).permute(0, 3, 1, 2))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert first(ToTensor(), ToTorchImage(channels_last=False)).is_contiguous()
    erased = first(Cutout(4, (0,) * 6)) == 0
    assert (erased.reshape(N, -1).sum(1) >= 16 * 6 * 0.2).all() and not erased.all()
    assert first(RandomTranslate(2)).shape == values.shape
    with pytest.raises(PipelineError, match=r"RandomResizedCrop.* on uint8 images of 1, 3 or 4 channels"):
        first(RandomResizedCrop((0.5, 1), (1, 1), 4))


def test_arrays_of_fewer_axes_are_none(tmp_path):
    rows = write(tmp_path / "x", {"x": NDArrayField(np.dtype("u1"), (4, 5))}, [(np.ones((4, 5), np.uint8),)])
    with pytest.raises(PipelineError, match="works on images"):
        Loader(rows, 1, pipelines={"x": [NDArrayDecoder(), RandomHorizontalFlip()]})
    ((mixed,),) = Loader(rows, 1, pipelines={"x": [NDArrayDecoder(), ImageMixup(0.5, True)]})
    assert np.array_equal(mixed, np.ones((1, 4, 5)))
    with pytest.raises(PipelineError, match=r"ToTorchImage needs \(N, H, W, C\) images"):
        Loader(rows, 1, pipelines={"x": [NDArrayDecoder(), ToTensor(), ToTorchImage()]})


def test_with_a_gpu_the_cpu_moves_arrays(gpu, spectra, caplog):
    path, values = spectra
    gpu()

    def made(*steps):
        return Loader(path, N, pipelines={"x": [NDArrayDecoder(), *steps]})

    with caplog.at_level(logging.WARNING):
        (found,) = epoch(made(ToTensor(), ToDevice(0), ToTorchImage()))
        assert np.array_equal(found, values.transpose(0, 3, 1, 2)) and not caplog.messages
        made(RandomHorizontalFlip(1), ToTensor(), ToDevice(0), ToTorchImage())
    (message,) = caplog.messages
    assert "runs on the CPU, and its result is uploaded, because of RandomHorizontalFlip" in message

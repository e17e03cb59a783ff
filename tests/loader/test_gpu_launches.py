"""Launches that are not the fused one, on a fake GPU: the same values as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcv_gpu.fields.decoders import (
    IntDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.ssl import PadRGBImageDecoder
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    GaussianBlur,
    ImageMixup,
    LabelMixup,
    LabelRandomHorizontalFlip,
    MixupToOneHot,
    NormalizeImage,
    Poison,
    RandAugment,
    RandomBrightness,
    RandomColorJitter,
    RandomContrast,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomSaturation,
    RandomSolarization,
    RandomVerticalFlip,
    ReplaceLabel,
    Rotate,
    ToDevice,
    ToTensor,
    ToTorchImage,
    TrivialAugment,
)
from tests.mixed_file import MEAN, SETTINGS, STD, kept, on_cpu, pipelines, same_batches


def coloured(device, *steps):
    there = [ToDevice(0)] if device is not None else []
    head = [RandomResizedCropRGBImageDecoder((24, 28)), RandomHorizontalFlip()]
    tail = [ToTensor(), *there, ToTorchImage(), NormalizeImage(MEAN, STD, np.float32)]
    return pipelines(device, image=[*head, *steps, *tail])


COLOURS = {
    "pointwise": lambda: [RandomBrightness(0.4, 1.0), RandomSaturation(0.4, 1.0), Cutout(7, (9, 8, 7))],
    "contrast": lambda: [RandomBrightness(0.4), RandomContrast(0.5, 1.0)],
    "jitter": lambda: [RandomColorJitter(1.0), RandomGrayscale(0.5), RandomSolarization(0.5)],
    "blur": lambda: [GaussianBlur(0.7, 5), RandomErasing(0.7)],
    "rotate": lambda: [Rotate(0.7, 0.4), RandomHorizontalFlip(), RandomVerticalFlip()],
    "augment": lambda: [RandAugment(3, 9), TrivialAugment()],
}


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_colour_blur_and_warps_equal_the_cpu_s(gpu, files, kind, share):
    fake = gpu()
    loader = Loader(files[share], 8, pipelines=coloured(0, *COLOURS[kind]()), **SETTINGS)
    same_batches(
        kept(fake, loader, epochs=2), on_cpu(files[share], coloured(None, *COLOURS[kind]()), epochs=2)
    )


def test_contrast_measures_on_the_gpu(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 8, pipelines=coloured(0, *COLOURS["contrast"]()), **SETTINGS)
    assert sum(1 for _ in loader) == fake.launches.measured == 6


def test_padded_images(gpu, files):
    fake = gpu()

    def padded(device):
        there = [ToDevice(0)] if device is not None else []
        return pipelines(device, image=[PadRGBImageDecoder(), RandomBrightness(0.3), ToTensor(), *there])

    loader = Loader(files[0.4], 8, pipelines=padded(0), **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], padded(None)))


def test_many_launches_in_parts(gpu, files):
    fake = gpu()
    made = coloured(0, *COLOURS["augment"]())
    loader = Loader(files[0.4], 16, pipelines=made, gpu_memory_gb=0.001, **SETTINGS)
    expected = on_cpu(files[0.4], coloured(None, *COLOURS["augment"]()), batch_size=16)
    same_batches(kept(fake, loader), expected)


def test_mixup_and_labels_that_tell_equal_the_cpu_s(gpu, equal_sizes):
    fake = gpu(deferred=False)  # torch computes at once here

    def mixed(device):
        there = [ToDevice(0)] if device is not None else []
        mask = np.full((32, 32, 3), 200.0), np.full((32, 32), 0.5)
        head = [SimpleRGBImageDecoder(), RandomHorizontalFlip(seed=2), Poison(*mask, [1, 5])]
        label = [IntDecoder(), ReplaceLabel([3], 7), LabelMixup(0.5, False), ToTensor(), *there]
        return pipelines(
            device,
            image=[*head, ImageMixup(0.5, False), ToTensor(), *there, ToTorchImage(), Convert(torch.float16)],
            label=[*label, MixupToOneHot(411)],
            flips=PipelineSpec("image", decoder=LabelRandomHorizontalFlip(seed=2), transforms=[ToTensor()]),
        )

    loader = Loader(equal_sizes, 8, pipelines=mixed(0), **SETTINGS)
    same_batches(kept(fake, loader, epochs=2), on_cpu(equal_sizes, mixed(None), epochs=2))

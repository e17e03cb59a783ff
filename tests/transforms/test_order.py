"""Steps in any order, fused as far as they can be: equal to numpy doing one after the other."""

import random
from functools import singledispatch

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    NormalizeImage,
    RandomErasing,
    RandomHorizontalFlip,
    RandomSolarization,
    RandomTranslate,
    Squeeze,
    ToTensor,
    ToTorchImage,
)

FILLS = (0, (7, 8, 9), (0.5, -1.5, 300))
FLOATS = ("float16", "float32", "float64")
#: more of a pipeline's usual steps than of the others
MAKERS = (
    lambda rng: RandomHorizontalFlip(rng.choice([0.5, 1.0])),
    lambda rng: RandomTranslate(rng.choice([0, 3]), rng.choice(FILLS)),
    lambda rng: RandomTranslate(rng.choice([1, 39]), padding_mode="reflect"),
    lambda rng: Cutout(rng.choice([None, 5]), rng.choice(FILLS)),
    lambda rng: RandomErasing(0.7),
    lambda rng: RandomSolarization(0.5, 100),
    lambda rng: NormalizeImage([100.0, 110, 120], [50.0, 60, 70], rng.choice(FLOATS)),
    lambda rng: Convert(rng.choice([*FLOATS, "int32"])),
    lambda rng: Squeeze(),
    lambda rng: ToTensor(),
    lambda rng: ToTensor(),
    lambda rng: ToTorchImage(rng.choice([True, False])),
)  # fmt: skip


@singledispatch
def done(step, images, draws, draw):
    """What `step` makes of images (N, H, W, C), whatever their type: nothing else than they are."""
    return images


@done.register
def _(step: RandomHorizontalFlip, images, draws, draw):
    return np.where(step.mirrored(draws, draw)[:, None, None, None], images[:, :, ::-1], images)


@done.register
def _(step: RandomTranslate, images, draws, draw):
    pad = step.padding
    if step.padding_mode == "reflect":
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect")
    else:
        padded = framed(step, images)
    starts = step.offsets(draws, draw) + pad
    return np.stack(
        [
            p[y : y + images.shape[1], x : x + images.shape[2]]
            for p, (y, x) in zip(padded, starts, strict=True)
        ]
    )


def framed(step, images):
    pad = step.padding
    padded = np.empty((len(images), *(side + 2 * pad for side in images.shape[1:3]), 3), images.dtype)
    padded[:] = filling(step, images.dtype)
    padded[:, pad : pad + images.shape[1], pad : pad + images.shape[2]] = images
    return padded


@done.register(Cutout)
@done.register(RandomErasing)
def _(step, images, draws, draw):
    erased = images.copy()
    for image, (y0, x0, y1, x1) in zip(erased, step.rectangles(draws, draw, *images.shape[1:3]), strict=True):
        image[y0:y1, x0:x1] = filling(step, images.dtype)
    return erased


@done.register
def _(step: RandomSolarization, images, draws, draw):
    return np.where(images >= step.amounts(draws, draw)[:, :, None, None], 255 - images, images)


@done.register
def _(step: NormalizeImage, images, draws, draw):
    return ((images.astype(np.float64) - step.mean) / step.std).astype(step.type)


@done.register
def _(step: Convert, images, draws, draw):
    return images.astype(step.target_dtype)


def filling(step, dtype):
    fill = np.asarray(step.fill, np.float64)
    return np.clip(np.rint(fill), 0, 255).astype(np.uint8) if dtype == np.uint8 else fill.astype(dtype)


@pytest.mark.parametrize("seed", range(4))
def test_random_lists_of_steps(photo_file, seed):
    rng, made = random.Random(seed), 0
    while made < 20:
        steps = [rng.choice(MAKERS)(rng) for _ in range(rng.randint(1, 6))]
        pipelines = {"image": [SimpleRGBImageDecoder(), *steps], "label": None}
        try:
            loader = Loader(photo_file.path, 6, 1, pipelines=pipelines, seed=3)
        except PipelineError:
            continue  # steps that cannot stand so are other tests' matter
        made += 1
        (batch,) = next(iter(loader))
        expected = photo_file.images[:6]
        for step in steps:
            draws, draw = photo_file.drawn(pipelines, step, np.arange(6))
            expected = done(step, expected, draws, draw)
        spec = loader.code["image"].spec
        assert (tuple(batch.shape[1:]), isinstance(batch, torch.Tensor)) == (
            spec.shape,
            spec.container == "tensor",
        )
        if spec.layout == "CHW":
            how = torch.channels_last if spec.channels_last else torch.contiguous_format
            assert batch.is_contiguous(memory_format=how), steps
            batch = batch.permute(0, 2, 3, 1)
        got = np.asarray(batch)
        assert got.dtype == expected.dtype == spec.dtype, steps
        near = {"float16": 2e-3, "float32": 1e-5}.get(spec.dtype, 0)
        assert np.allclose(got.astype(float), expected.astype(float), rtol=near, atol=near), steps

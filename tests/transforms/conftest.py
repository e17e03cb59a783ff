"""What the tests of transforms share: a file of raw photographs, loading it, and what a step drew."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ffcv_gpu.draws import Draws
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline.outputs import output_specs
from ffcv_gpu.writer import DatasetWriter

N, HEIGHT, WIDTH = 21, 40, 48


@pytest.fixture(scope="session")
def photo_file(tmp_path_factory, make_photo):
    """21 raw photographs of 40 x 48 pixels with their numbers as labels: `.path`, `.images`, `.load(...)`."""
    images = np.stack([make_photo(HEIGHT, WIDTH, seed) for seed in range(N)])
    images[1] = 90  # one colour: histograms of one value
    path = tmp_path_factory.mktemp("transforms") / "photos.beton"
    fields = {"image": RGBImageField(), "label": IntField()}
    samples = [(image, i) for i, image in enumerate(images)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)

    def load(pipelines, batch_size=8, seed=3, epoch=0, **more):
        """Load one epoch; a list of whole outputs as numpy arrays."""
        options = {"num_workers": 2, "drop_last": False, **more}
        with Loader(path, batch_size, seed=seed, pipelines=pipelines, **options) as loader:
            loader.next_epoch = epoch
            batches = [tuple(np.asarray(part) for part in batch) for batch in loader]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def drawn(pipelines, step, rows=None, seed=3, epoch=0):
        """Return (draws, draw) of a step in these pipelines."""
        outputs = output_specs(pipelines, {"image": RGBImageField(), "label": IntField()})
        ids = np.arange(N) if rows is None else rows
        return Draws(seed, epoch, ids), outputs[0].draws[step]

    return SimpleNamespace(path=path, images=images, load=load, drawn=drawn)


@pytest.fixture(scope="session")
def functional(torchvision):
    """torchvision.transforms.v2.functional."""
    return torchvision.transforms.v2.functional


@pytest.fixture(scope="session")
def on_image():
    """``on_image(function, image, ...)``: a torchvision function on an (H, W, C) uint8 array."""

    def run(function, image, *arguments, **options):
        made = function(
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), *arguments, **options
        )
        return made.numpy().transpose(1, 2, 0)

    return run

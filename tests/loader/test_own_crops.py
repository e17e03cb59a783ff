"""A crop function of the user's own, on a CPU and on a fake GPU: the same batches, from one plan."""

import numpy as np

from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.fields.rgb_image import ResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import (
    NormalizeImage,
    RandomHorizontalFlip,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from tests.small_file import MEAN, STD, N, epoch


class Strips(ResizedCropRGBImageDecoder):
    """The whole width, at a random height."""

    scale = (0.3, 0.8)

    @property
    def get_crop_generator(self):
        def strip(height, width, scale, ratio):
            h = max(1, int(height * np.random.uniform(scale[0], scale[1])))  # noqa: NPY002 (numba's)
            return int(np.random.uniform(0, height - h + 1)), 0, h, width  # noqa: NPY002

        return strip


def made(path, device):
    there = [ToDevice("cuda:0")] if device else []
    normalise = NormalizeImage(MEAN, STD, np.float16)
    image = [Strips((18, 22)), RandomHorizontalFlip(), ToTensor(), *there, ToTorchImage(), normalise]
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)], "vector": None}
    return Loader(path, 5, seed=2, drop_last=False, pipelines=pipelines, **device)


def test_the_device_changes_nothing(small, device):
    plain, loader = made(small, {}), made(small, device)
    for _ in range(2):
        (want, rows), (got, labels) = epoch(plain), epoch(loader)
        assert len(want) == N and np.array_equal(got, want) and np.array_equal(labels, rows)
    line = next(line for line in loader.explain().splitlines() if "Strips(" in line)
    assert "on the CPU while the batch is planned" in line

"""The loader's way through a GPU with its own kernels: compiled to PTX, run by the machine of `tests.ptx`.

Beside the fake nvJPEG and the fake streams, all of the way is ours then but numba's launch.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcv_gpu.fields.decoders import RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.ssl import PadRGBImageDecoder
from ffcv_gpu.transforms import (
    GaussianBlur,
    NormalizeImage,
    RandAugment,
    RandomContrast,
    Rotate,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from tests.mixed_file import MEAN, SETTINGS, STD, crop, kept, on_cpu, pipelines
from tests.ptx.gpu import PtxGpu, PtxLaunches

pytest.importorskip("numba.cuda")

#: a grey level in normalised units, and a little for float16
LEVEL = float(1.02 / STD.min())


def colours(device=0):
    there = [] if device is None else [ToDevice(device)]
    steps = [RandomContrast(0.5, 1.0), GaussianBlur(0.7, 5), Rotate(0.7, 0.4), RandAugment(2, 9)]
    tail = [ToTensor(), *there, ToTorchImage(), NormalizeImage(MEAN, STD, np.float16)]
    return [RandomResizedCropRGBImageDecoder((24, 28)), *steps, *tail]


def padded(device=0):
    return [PadRGBImageDecoder(), ToTensor(), *([] if device is None else [ToDevice(device)])]


#: image pipeline, greatest distance of a value, share of values that may be further apart
CASES = {
    "fused": (crop, LEVEL, 0.0),
    "colours": (colours, LEVEL, 0.03),  # what is one level off may be equalised or solarized
    "padded": (padded, 0.0, 0.0),
}


#: 20 s of a CPU: in the long tests
LONG = {"colours"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in LONG)) for n in CASES])
def test_batches_are_the_cpu_s(gpu, files, monkeypatch, name):
    pipeline, distance, share = CASES[name]
    fake = gpu(launches=lambda owner: PtxLaunches(owner, PtxGpu(monkeypatch)))
    loader = Loader(files[0.4], 8, pipelines=pipelines(image=pipeline()), **SETTINGS)
    got = kept(fake, loader)
    expected = on_cpu(files[0.4], pipelines(None, image=pipeline(None)))
    assert fake.launches.launched >= len(got) == len(expected)
    for (image, *rest), (image_on_cpu, *others) in zip(got, expected, strict=True):
        assert image.dtype == image_on_cpu.dtype and image.stride() == image_on_cpu.stride()
        apart = (image.float() - image_on_cpu.float()).abs()
        assert (apart > distance).float().mean() <= share
        assert (apart > 0).float().mean() <= share + 0.02
        assert all(torch.equal(a, b) for a, b in zip(rest, others, strict=True))

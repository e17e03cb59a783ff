"""The same (seed, epoch) gives the same samples and the same pixels, whatever else is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.plan import Planner
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
from tests.small_file import MEAN, STD, N, epoch

ORDERS = list(OrderOption)


def loader(path, device=None, batch_size=5, **options):
    there = [ToDevice("cuda:0")] if device else []
    image = [
        RandomResizedCropRGBImageDecoder((20, 24)), RandomHorizontalFlip(), RandomTranslate(3), Cutout(5),
        ToTensor(), *there, ToTorchImage(), NormalizeImage(MEAN, STD, np.float16),
    ]  # fmt: skip
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)], "vector": None}
    settings = {"seed": 9, "drop_last": False, "num_workers": 1, "pipelines": pipelines, **(device or {})}
    return Loader(path, batch_size, **{**settings, **options})


def epochs(made, count=2):
    return [epoch(made) for _ in range(count)]


@pytest.fixture(scope="module")
def reference(small):
    """Two epochs in each order, on the CPU with one thread."""
    return {order: epochs(loader(small, order=order)) for order in ORDERS}


def same(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


VARIANTS = {
    "workers": {"num_workers": 4},
    "ahead": {"batches_ahead": 1},
    "far ahead": {"batches_ahead": 9, "num_workers": 3},
    "batches of 1": {"batch_size": 1},
    "one batch": {"batch_size": N + 4},
    "pread": {"os_cache": False, "cache_gb": 0},
    "pages": {"os_cache": False, "num_workers": 2},
}


@pytest.mark.parametrize("device", ["cpu", "gpu"], indirect=True)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_else_matters(device, small, reference, order, variant):
    same(epochs(loader(small, device, order=order, **VARIANTS[variant])), reference[order])


@pytest.mark.parametrize("device", ["cpu", "gpu"], indirect=True)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("world_size", [2, 3])
def test_nor_does_the_number_of_ranks(device, small, reference, order, world_size):
    shares = []
    for rank in range(world_size):
        made = loader(small, device, 2, order=order, rank=rank, world_size=world_size)
        shares.append(epochs(made))
    for number, expected in enumerate(reference[order]):
        for column, values in enumerate(expected):
            parts = [share[number][column] for share in shares]
            dealt = np.stack(parts, axis=1).reshape(-1, *values.shape[1:])
            assert np.array_equal(dealt[:N], values)
            assert np.array_equal(dealt[N:], values[: len(dealt) - N])


def test_nor_do_earlier_epochs(small, reference):
    made = loader(small, order=OrderOption.QUASI_RANDOM)
    made.set_epoch(1)
    same([epoch(made)], reference[OrderOption.QUASI_RANDOM][1:])


def test_seed_and_epoch_do_matter(small, reference):
    first, second = reference[OrderOption.SEQUENTIAL]
    assert np.array_equal(first[1], second[1]) and not np.array_equal(first[0], second[0])
    (other,) = epochs(loader(small, seed=10), 1)
    assert not np.array_equal(first[0], other[0])


def test_global_generators_do_not_matter(small, reference):
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    same(epochs(loader(small)), reference[OrderOption.SEQUENTIAL])


def test_cpu_and_gpu_draw_identical_parameters(gpu, small):
    """Bit for bit, before a pixel is touched."""
    gpu()
    plans = []
    for device in (None, {"device": "cuda:0"}):
        made = loader(small, device)
        payloads = {"image": made.dataset.payloads("image")}
        planner = Planner(made._programs, payloads, seed=9, epoch=4)
        plans.append(planner.plan(0, np.arange(N)[::-1]).stages["image"])
    for one, other in zip(*plans, strict=True):
        for name in ("boxes", "geometry", "params"):
            assert np.array_equal(getattr(one, name), getattr(other, name))

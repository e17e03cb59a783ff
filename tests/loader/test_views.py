"""Several views of one image from one decode, as contrastive learning wants them."""

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu import ssl
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import (
    GaussianBlur,
    RandAugment,
    RandomColorJitter,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomSolarization,
    Rotate,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter

N = 22


@pytest.fixture(scope="module")
def path(tmp_path_factory, make_photo):
    path = tmp_path_factory.mktemp("views") / "photos.beton"
    samples = [(simplejpeg.encode_jpeg(make_photo(60, 80, i), 92), i) for i in range(N)]
    writer = DatasetWriter(
        path, {"image": RGBImageField(), "label": IntField()}, num_workers=1, progress=False
    )
    writer.from_indexed_dataset(samples)
    return path


def steps(size, blur):
    """BYOL's: jitter, grey, blur, solarisation."""
    colours = [RandomColorJitter(0.8, 0.4, 0.4, 0.2, 0.1), RandomGrayscale(0.2)]
    rest = [GaussianBlur(blur, 5), RandomSolarization(0.2), ToTensor(), ToTorchImage(channels_last=False)]
    return [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip(), *colours, *rest]


def epoch(path, pipelines, **more):
    options = {"seed": 4, "order": OrderOption.RANDOM, "drop_last": False, "num_workers": 2, **more}
    with Loader(path, 8, pipelines=pipelines, **options) as loader:
        batches = [tuple(np.asarray(part) for part in batch) for batch in loader]
        stats = loader.stats()
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)], stats


def test_two_views_are_two_augmentations_of_one_decode(path, cpu_decoder):
    first, second = steps((32, 32), 1.0), steps((24, 24), 0.1)
    view = PipelineSpec("image", decoder=second[0], transforms=second[1:])
    (one, label, two), stats = epoch(path, {"image": first, "label": [IntDecoder()], "second": view})
    assert one.shape == (N, 3, 32, 32) and two.shape == (N, 3, 24, 24)
    assert sorted(label[:, 0].tolist()) == list(range(N))
    assert stats.counts[f"jpeg: {cpu_decoder}"] == N  # once for both
    (alone, _), _ = epoch(path, {"image": first, "label": [IntDecoder()]})
    assert np.array_equal(alone, one)
    (_, third), _ = epoch(path, {"image": [first[0]], "label": None, "second": view})
    assert np.array_equal(third, two)


def test_views_share_what_stands_in_both_and_differ_in_the_rest(path, cpu_decoder):
    crop, flip = RandomResizedCropRGBImageDecoder((32, 32)), RandomHorizontalFlip()
    jitters = RandomColorJitter(1.0), RandomColorJitter(1.0)
    pipelines = {
        "image": [crop, flip, jitters[0]],
        "label": None,
        "same": PipelineSpec("image", decoder=crop, transforms=[flip, jitters[0]]),
        "colours": PipelineSpec(flip, transforms=[jitters[1]]),
        "plain": PipelineSpec(flip),
    }
    (image, same, colours, plain), stats = epoch(path, pipelines)
    assert np.array_equal(image, same)
    assert not np.array_equal(image, colours) and not np.array_equal(image, plain)
    assert stats.counts[f"jpeg: {cpu_decoder}"] == N


@pytest.mark.parametrize("batch_size", [1, 5])
def test_views_do_not_depend_on_batches_or_workers(path, batch_size):
    first, second = steps((16, 16), 0.5), steps((16, 16), 0.5)
    pipelines = {
        "image": first,
        "label": [IntDecoder()],
        "second": PipelineSpec("image", decoder=second[0], transforms=second[1:]),
        "crop": PipelineSpec("image", decoder=ssl.LabelRandomResizedCrop((16, 16), 3)),
        "augmented": PipelineSpec("image", second[0], [RandAugment(2), RandomErasing(), Rotate()]),
    }
    expected, _ = epoch(path, pipelines)
    with Loader(path, batch_size, 1, seed=4, order=OrderOption.RANDOM, drop_last=False,
                pipelines=pipelines) as loader:  # fmt: skip
        batches = [tuple(np.asarray(part) for part in batch) for batch in loader]
    for whole, parts in zip(expected, zip(*batches, strict=True), strict=True):
        assert np.array_equal(np.concatenate(parts), whole)

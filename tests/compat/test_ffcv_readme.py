"""The example of FFCV's README, with the import renamed.

Its own slips are mended: ``RGBImageField({max_resolution=256, ...})`` is no Python, ``ds`` is not
defined there, and ``IntDecoder`` is not imported.
"""

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.transforms import Cutout, ToDevice, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter


@pytest.fixture(scope="module")
def write_path(tmp_path_factory):
    rng = np.random.default_rng(0)
    my_dataset = [(rng.integers(0, 255, (300, 280, 3), dtype=np.uint8), i) for i in range(12)]
    path = tmp_path_factory.mktemp("readme") / "ds.beton"
    writer = DatasetWriter(str(path), {"image": RGBImageField(max_resolution=256), "label": IntField()})
    writer.from_indexed_dataset(my_dataset)
    return str(path)


def pipelines():
    decoder = RandomResizedCropRGBImageDecoder((224, 224))
    image_pipeline = [decoder, Cutout(), ToTensor(), ToTorchImage(), ToDevice(0)]
    label_pipeline = [IntDecoder(), ToTensor(), ToDevice(0)]
    return {"image": image_pipeline, "label": label_pipeline}


def test_the_example_runs_on_the_cpu(write_path):
    loader = Loader(
        write_path, batch_size=4, num_workers=2, order=OrderOption.RANDOM, pipelines=pipelines(), device="cpu"
    )
    seen = []
    for images, labels in loader:
        assert images.shape == (4, 3, 224, 224) and images.dtype == torch.uint8
        assert (images == 0).all(dim=1).sum() >= 4 * 112 * 112
        seen += labels.flatten().tolist()
    assert sorted(seen) == list(range(12))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_todevice_0_says_so_when_the_loader_is_made(write_path):
    with pytest.raises(BackendUnavailable, match=r"'cuda:0'.*device=\"cpu\""):
        Loader(write_path, batch_size=4, num_workers=2, order=OrderOption.RANDOM, pipelines=pipelines())

"""ModuleWrapper: what is said of a module that cannot stand where it does, or returns nothing."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import ModuleWrapper, ToTensor
from ffcv_gpu.writer import DatasetWriter


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "a.beton"
    DatasetWriter(path, {"image": RGBImageField()}, num_workers=1, progress=False).from_indexed_dataset(
        [(np.zeros((8, 8, 3), np.uint8),)] * 4
    )
    return path


def load(path, *steps):
    return next(iter(Loader(path, 4, num_workers=1, pipelines={"image": [SimpleRGBImageDecoder(), *steps]})))


def test_torchvisions_own_way_to_tensors_is_replaced(path, torchvision):
    from torchvision import transforms
    from torchvision.transforms import v2

    for step in (transforms.ToTensor(), transforms.PILToTensor(), v2.ToImage()):
        with pytest.raises(
            PipelineError, match=r"takes single PIL images; put ffcv_gpu's ToTensor\(\) in its"
        ):
            load(path, step)
    with pytest.raises(
        PipelineError, match=r"Normalize works on tensors; put ffcv_gpu's ToTensor\(\) before it"
    ):
        load(path, transforms.Normalize([9.0], [9.0]))


def test_a_module_that_returns_nothing(path):
    with pytest.raises(PipelineError, match=r"ModuleWrapper.* returned None; it must return the new batch"):
        load(path, ToTensor(), ModuleWrapper(lambda batch: None))

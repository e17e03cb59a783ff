"""What several files of this folder load."""

import pytest

from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter
from tests.compat.operations import PIXELS, N


@pytest.fixture(scope="session")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("operations") / "small.beton"
    fields = {"image": RGBImageField(), "label": IntField()}
    samples = [(PIXELS[i], i * 10) for i in range(N)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path

"""What the tests of observation share: a file and a loader of it."""

from __future__ import annotations

import pytest

SAMPLES, BATCH = 24, 4


@pytest.fixture(scope="session")
def file(make_jpeg, tmp_path_factory):
    """A file of JPEGs and labels."""
    from ffcv_gpu.fields import IntField, RGBImageField
    from ffcv_gpu.writer import DatasetWriter

    path = tmp_path_factory.mktemp("trace") / "photos.beton"
    writer = DatasetWriter(
        path, {"image": RGBImageField(), "label": IntField()}, num_workers=1, progress=False
    )
    writer.from_indexed_dataset([(make_jpeg(60, 80, i), i) for i in range(SAMPLES)])
    return path


@pytest.fixture
def make_loader(file):
    """``make_loader(num_workers=2)``: a loader of that file."""
    from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder
    from ffcv_gpu.loader import Loader

    def make(**settings):
        pipelines = {"image": [CenterCropRGBImageDecoder((32, 32), 1.0)]}
        return Loader(file, BATCH, **{"num_workers": 2, "pipelines": pipelines, **settings})

    return make

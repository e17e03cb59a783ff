"""Fields derived from the built-in ones, as FFCV's users derive them."""

import numpy as np
import pytest

from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.fields.rgb_image import IMAGE_MODES
from ffcv_gpu.libffcv import memcpy
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.writer import DatasetWriter


class Corner(RGBImageField):
    """Only the upper left corner is stored; ``__init__`` does not call the base's, as in fastxtend."""

    def __init__(self, side, max_resolution=None):
        self.side = side
        self.write_mode, self.max_resolution = "raw", max_resolution
        self.smart_threshold, self.jpeg_quality, self.proportion = None, 90, 0.5

    def encode(self, destination, image, malloc):
        pixels = np.ascontiguousarray(np.asarray(image)[: self.side, : self.side])
        destination["mode"] = IMAGE_MODES["raw"]
        destination["height"], destination["width"] = pixels.shape[:2]
        destination["data_ptr"], storage = malloc(pixels.nbytes)
        storage[:] = pixels.reshape(-1)


class Halved(Corner):
    """Settings of its own, and the base's way of storing."""

    encode = RGBImageField.encode


@pytest.mark.parametrize(("field", "part"), [(Corner(5), 5), (Halved(5), 12)])
def test_an_image_field_whose_init_does_not_call_ours(tmp_path, field, part):
    photos = np.random.default_rng(0).integers(0, 256, (9, 12, 12, 3), np.uint8)
    writer = DatasetWriter(
        tmp_path / "a.beton", {"image": field, "label": IntField()}, num_workers=2, progress=False
    )
    writer.from_indexed_dataset([(photo, i) for i, photo in enumerate(photos)])
    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    loader = Loader(tmp_path / "a.beton", 9, pipelines=pipelines, custom_fields={"image": type(field)})
    ((images, labels),) = loader
    assert np.array_equal(images, photos[:, :part, :part]) and labels[:, 0].tolist() == list(range(9))


@pytest.mark.parametrize("compiled", [True, False])
def test_memcpy_copies_the_values_of_a_part(compiled):
    """Decoders of spectrograms copy frames out of a transposed payload; FFCV's goes on in memory instead."""
    values, target = np.arange(24, dtype=np.uint8).reshape(4, 6), np.zeros((3, 4), np.uint8)
    (Compiler.compile(memcpy) if compiled else memcpy)(values.T[1:4], target)
    assert np.array_equal(target, values.T[1:4])

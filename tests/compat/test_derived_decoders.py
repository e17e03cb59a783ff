"""FFCV's decoders with code of the user's alone: it works in what FFCV's own classes declare."""

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import BytesField, FloatField, IntField, NDArrayField, RGBImageField
from ffcv_gpu.fields.decoders import (
    BytesDecoder,
    CenterCropRGBImageDecoder,
    FloatDecoder,
    IntDecoder,
    NDArrayDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.loader import Loader
from ffcv_gpu.writer import DatasetWriter

N = 5
SIDES = 6, 4


def record_code(self):
    """Twice the number that is stored in the record."""

    def decode(indices, destination, metadata, storage_state):
        for i in range(len(indices)):
            destination[i] = metadata[indices[i]] * 2
        return destination

    return decode


def payload_code(self):
    """The payload's bytes, as they are."""
    mem_read, pointer = self.memory_read, "data_ptr" if "data_ptr" in self.metadata.dtype.names else "ptr"

    def decode(indices, destination, metadata, storage_state):
        for i in range(len(indices)):
            data = mem_read(metadata[indices[i]][pointer], storage_state)
            destination[i].reshape(-1).view(np.uint8)[: len(data)] = data
        return destination[: len(indices)]

    return decode


def array_code(self):
    mem_read = self.memory_read

    def decode(indices, destination, metadata, storage_state):
        for i in range(len(indices)):
            data = mem_read(metadata[indices[i]], storage_state)
            destination[i].reshape(-1).view(np.uint8)[:] = data
        return destination

    return decode


def corner_code(self):
    """The pixels at the upper left, read through the second memory, as large as the largest image."""
    mem_read, (height, width) = self.memory_read, self.output_size

    def decode(indices, memory, metadata, storage_state):
        destination, whole = memory
        for i in range(len(indices)):
            field = metadata[indices[i]]
            h, w = np.int64(field["height"]), np.int64(field["width"])
            whole[i, : h * w * 3] = mem_read(field["data_ptr"], storage_state)
            destination[i] = whole[i, : h * w * 3].reshape(h, w, 3)[:height, :width]
        return destination

    return decode


def derived(base, code):
    return type(f"Own{base.__name__}", (base,), {"generate_code": code})


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(0, 256, (*SIDES, 3), np.uint8),
            rng.integers(0, 256, (6 + i, 9 - i, 3), np.uint8),
            i + 3,
            i / 4,
            rng.standard_normal((2, 3)).astype(np.float32),
            np.arange(i + 1, dtype=np.uint8),
        )
        for i in range(N)
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("decoders") / "all.beton"
    image = RGBImageField("raw")
    array = NDArrayField(np.dtype("float32"), (2, 3))
    kinds = [image, image, IntField(), FloatField(), array, BytesField()]
    fields = dict(zip(("image", "varied", "int", "float", "array", "bytes"), kinds, strict=True))
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


def stored(path, field, decoder):
    names = ("image", "varied", "int", "float", "array", "bytes")
    pipelines = {**dict.fromkeys(names), field: [decoder]}
    return np.asarray(next(iter(Loader(path, N, pipelines=pipelines)))[0])


@pytest.mark.parametrize(
    ("field", "base", "code", "times"),
    [
        ("int", IntDecoder, record_code, 2),
        ("float", FloatDecoder, record_code, 2),
        ("array", NDArrayDecoder, array_code, 1),
        ("image", SimpleRGBImageDecoder, payload_code, 1),
    ],
)
def test_values_of_one_shape(path, samples, field, base, code, times):
    column = ("image", "varied", "int", "float", "array", "bytes").index(field)
    expected = np.array([sample[column] for sample in samples]) * times
    got = stored(path, field, derived(base, code)())
    assert np.array_equal(got, expected[:, None] if expected.ndim == 1 else expected)
    assert got.dtype == expected.dtype


def test_byte_strings_get_rows_of_the_longest(path, samples):
    got = stored(path, "bytes", derived(BytesDecoder, payload_code)())
    assert got.shape == (N, N)
    assert all(np.array_equal(row[: i + 1], np.arange(i + 1)) for i, row in enumerate(got))


@pytest.mark.parametrize("base", [RandomResizedCropRGBImageDecoder, CenterCropRGBImageDecoder])
def test_crops_get_memory_of_their_size_and_of_the_largest_image(path, samples, base):
    arguments = ((4, 3), 1.0) if base is CenterCropRGBImageDecoder else ((4, 3),)
    got = stored(path, "varied", derived(base, corner_code)(*arguments))
    assert np.array_equal(got, [sample[1][:4, :3] for sample in samples])


def test_whole_images_of_several_sizes_are_refused(path):
    with pytest.raises(PipelineError, match="images differ in size; define declare_state_and_memory"):
        stored(path, "varied", derived(SimpleRGBImageDecoder, payload_code)())

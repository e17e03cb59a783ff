"""Decoders of one number a sample: also of a custom field's own type."""

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import FloatField, IntField
from ffcv_gpu.fields.basics import BasicDecoder, FloatDecoder, IntDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import Squeeze, ToTensor
from ffcv_gpu.writer import DatasetWriter

N = 10


class ShortField(IntField):
    """A custom field: two bytes a sample."""

    @property
    def metadata_type(self):
        return np.dtype("<i2")

    @staticmethod
    def from_binary(binary):
        return ShortField()

    def encode(self, destination, value, malloc):
        destination[0] = value

    def get_decoder_class(self):
        return ShortDecoder


class ShortDecoder(BasicDecoder):
    dtype = np.dtype("<i2")


class NoType(BasicDecoder):
    pass


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("numbers") / "numbers.beton"
    fields = {"short": ShortField(), "whole": IntField(), "score": FloatField()}
    samples = [(-i, i, i / 4) for i in range(N)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


def loader(path, **pipelines):
    return Loader(path, 5, pipelines=pipelines, custom_fields={"short": ShortField})


@pytest.mark.parametrize("head", [[], [ShortDecoder()]])
def test_a_custom_type_by_a_subclass(path, head):
    batches = list(loader(path, short=[*head, ToTensor(), Squeeze(1)], whole=None, score=[FloatDecoder()]))
    assert [int(v) for short, _ in batches for v in short] == [-i for i in range(N)]
    short, score = batches[0]
    assert str(short.dtype) == "torch.int16" and score.shape == (5, 1) and score.dtype == np.float64


@pytest.mark.parametrize(
    ("field", "decoder", "words"),
    [
        (
            "score",
            IntDecoder(),
            "but the class of field 'score' is FloatField; FloatDecoder reads it",
        ),
        (
            "whole",
            FloatDecoder(),
            "FloatDecoder decodes floats, but the class of field 'whole' is IntField; IntDecoder reads it",
        ),
        (
            "whole",
            ShortDecoder(),
            "ShortDecoder decodes int16 numbers, but the class of field 'whole' is IntField",
        ),
        ("whole", NoType(), "NoType has no dtype"),
    ],
)
def test_another_type_than_the_stored_one_is_refused_when_the_loader_is_made(path, field, decoder, words):
    with pytest.raises(PipelineError, match=words):
        loader(path, **{field: [decoder]})

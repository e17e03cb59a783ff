"""Files written by FFCV 1.0.2 itself give the values that FFCV's own decoders and loader gave."""

import json

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import Field, JSONField
from ffcv_gpu.fields.decoders import BytesDecoder, CenterCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.steps import Decoder, ValueSpec

CROPPED, RAW = "loader_centercrop_96_ratio_0.875", "loader_image"


class TagDecoder(Decoder):
    """A user's own decoder: text filled up with zeros."""

    def first_spec(self, source):
        return ValueSpec((source.max_bytes,), "uint8")


class TagField(Field):
    """The custom field (type 255) of the mixed file: one pointer to zero-terminated text."""

    pointers = ("",)
    metadata_type = np.dtype("<u8")

    @staticmethod
    def from_binary(binary):
        return TagField()

    def to_binary(self):
        raise AssertionError("never written here")

    def encode(self, destination, value, malloc):
        raise AssertionError("never written here")

    def get_decoder_class(self):
        return TagDecoder


def load(path, pipelines=None, **options):
    """All batches of a file, joined per output."""
    batches = list(Loader(path, 7, drop_last=False, pipelines=pipelines or {}, **options))
    return [np.concatenate([np.asarray(batch[k]) for batch in batches]) for k in range(len(batches[0]))]


@pytest.mark.parametrize("os_cache", [True, False])
def test_jpegs_with_the_fast_dct_are_ffcvs_pixels_exactly(reference_betons, os_cache):
    pipelines = {"image": [CenterCropRGBImageDecoder((96, 96), 0.875)]}
    want = np.load(reference_betons / "jpg.npz")
    images, labels = load(reference_betons / "jpg.beton", pipelines, dct="fast", os_cache=os_cache)
    assert np.array_equal(images, want[CROPPED]) and np.array_equal(labels, want["loader_label"])


def test_jpegs_with_the_accurate_dct_are_close_to_ffcvs(reference_betons):
    pipelines = {"image": [CenterCropRGBImageDecoder((96, 96), 0.875)]}
    images, _ = load(reference_betons / "jpg.beton", pipelines)
    difference = np.abs(images.astype(int) - np.load(reference_betons / "jpg.npz")[CROPPED])
    assert 0 < difference.mean() < 1.5 and difference.max() <= 8


def test_raw_images_are_equal(reference_betons):
    images, labels = load(reference_betons / "raw.beton")
    want = np.load(reference_betons / "raw.npz")
    assert np.array_equal(images, want[RAW]) and np.array_equal(labels, want["loader_label"])


def test_scalars_are_equal(reference_betons):
    a, b = load(reference_betons / "scalars.beton")
    want = np.load(reference_betons / "scalars.npz")
    assert np.array_equal(a[:, 0], want["a"]) and np.array_equal(b[:, 0], want["b"])


def test_every_field_of_the_mixed_file_is_equal(reference_betons):
    want = np.load(reference_betons / "mixed.npz")
    names = [str(name) for name in want["field_names"]]
    small = next(name for name in names if name.startswith("sixteen"))
    pipelines = {
        "image": [CenterCropRGBImageDecoder((64, 64), 1.0)],
        small: [SimpleRGBImageDecoder()],
        "meta": [BytesDecoder()],
    }
    loaded = load(reference_betons / "mixed.beton", pipelines, custom_fields={"tag": TagField}, dct="fast")
    values = dict(zip(names, loaded, strict=True))
    for name in ("label", "score"):
        assert np.array_equal(values[name][:, 0], want[name])
    for name in ("vector", "tensor"):
        assert np.array_equal(values[name], want[name]) and values[name].dtype == want[name].dtype
    assert np.array_equal(values[small], want["small"])
    assert np.array_equal(values["image"], want["loader_centercrop_64_ratio_1"])
    documents = [json.dumps(document, sort_keys=True) for document in JSONField.unpack(values["meta"])]
    assert documents == want["meta_json"].tolist()
    sizes = want["blob_size"]
    joined = np.concatenate([row[:size] for row, size in zip(values["blob"], sizes, strict=True)])
    assert np.array_equal(joined, want["blob"])
    assert [row.tobytes().split(b"\0")[0].decode() for row in values["tag"]] == want["tag"].tolist()


def test_a_custom_field_without_its_class_is_named(reference_betons):
    with pytest.raises(PipelineError, match=r"'tag'.*custom_fields"):
        Loader(reference_betons / "mixed.beton", 4)

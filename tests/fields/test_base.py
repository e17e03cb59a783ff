"""What every field promises, and what a class of one's own gets without asking."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from ffcv_gpu import fields
from ffcv_gpu.errors import FormatError
from ffcv_gpu.fields import (
    BytesField,
    Field,
    FloatField,
    ImageField,
    IntField,
    JSONField,
    MaskField,
    NDArrayField,
    RaggedField,
    RGBImageField,
    TorchTensorField,
    own_class,
)
from ffcv_gpu.fields.base import ARG_TYPE
from ffcv_gpu.format import RECORD_DTYPES, TypeId

# FFCV's numbers, and what reads them there (beton_format.md, 1.2)
BUILT_IN = [
    (FloatField(), 0, "FloatDecoder"),
    (IntField(), 1, "IntDecoder"),
    (RGBImageField(), 2, "SimpleRGBImageDecoder"),
    (BytesField(), 3, "BytesDecoder"),
    (NDArrayField(np.dtype("<f4"), (3, 5)), 4, "NDArrayDecoder"),
    (JSONField(), 5, "BytesDecoder"),
    (TorchTensorField(np.dtype("<i8"), (7,)), 6, "NDArrayDecoder"),
]

# ours, for which FFCV has no number
OWN = [
    (ImageField(), 255, "SimpleRGBImageDecoder"),
    (ImageField(4, max_resolution=500), 255, "SimpleRGBImageDecoder"),
    (ImageField(2, np.uint16), 255, "SimpleRGBImageDecoder"),
    (ImageField(3, "float32"), 255, "SimpleRGBImageDecoder"),
    (MaskField("uint16"), 255, "SimpleRGBImageDecoder"),
    (RaggedField(np.float64, (2, 3)), 255, "RaggedDecoder"),
]


@pytest.mark.parametrize(("field", "type_id", "decoder"), OWN)
def test_our_own_fields_are_found_by_their_arguments(field, type_id, decoder):
    assert field.type_id == type_id and field.get_decoder_class().__name__ == decoder
    assert set(field.pointers) <= set(field.record_dtype.names)
    kind = own_class(field.to_binary().tobytes())
    assert kind is type(field)
    assert kind.from_binary(np.frombuffer(field.to_binary().tobytes(), np.uint8)).__dict__ == field.__dict__


@pytest.mark.parametrize(
    "text", [b"", b"{", b"7", b'{"class": "ImageField"}', b'{"class": 1, "settings": 2}', b"[" * 1015]
)
def test_argument_bytes_that_describe_no_field(text):
    with pytest.raises(FormatError, match="a field of ours is described as"):
        own_class(b"ffcv_gpu\0" + text.ljust(1015, b"\0"))


@pytest.mark.parametrize(
    ("field", "settings", "says"),
    [
        (ImageField, '{"channels": 9}', "channels must be 1 to 4"),
        (ImageField, '{"max_resolution": "x"}', "max_resolution must be a whole number"),
        (MaskField, '{"max_resolution": NaN}', "max_resolution must be a whole number"),
        (MaskField, '{"dtype": "<f4,("}', "never closed"),
        (RaggedField, '{"shape": "12"}', "shape must be whole numbers, not '12'"),
        (RaggedField, '{"shape": [1e400]}', "shape must be whole numbers"),
        (RaggedField, '{"sides": 2}', "unexpected keyword"),
    ],
)
def test_settings_that_cannot_be(field, settings, says):
    text = f'ffcv_gpu\0{{"class": "{field.__name__}", "settings": {settings}}}'.encode()
    with pytest.raises(FormatError, match=rf"described as {field.__name__} .*{says}"):
        field.from_binary(np.frombuffer(text.ljust(1024, b"\0"), np.uint8))


def test_other_fields_are_none_of_ours():
    assert own_class(bytes(1024)) is None and own_class(BUILT_IN[4][0].to_binary().tobytes()) is None


@pytest.mark.parametrize(("field", "type_id", "decoder"), BUILT_IN)
def test_numbers_records_and_decoders_are_ffcvs(field, type_id, decoder):
    assert field.type_id == type_id
    assert field.record_dtype == field.metadata_type == RECORD_DTYPES[type_id]
    assert field.get_decoder_class().__name__ == decoder
    assert set(field.pointers) <= {"", *(field.record_dtype.names or ())}


@pytest.mark.parametrize(("field", "type_id", "_"), BUILT_IN + OWN)
def test_arguments_are_1024_bytes_that_make_the_field_again(field, type_id, _):
    binary = field.to_binary()
    assert binary.dtype == ARG_TYPE and len(binary.tobytes()) == 1024
    again = type(field).from_binary(np.frombuffer(binary.tobytes(), np.uint8))
    assert again.record_dtype == field.record_dtype
    assert again.to_binary().tobytes() == binary.tobytes()


@pytest.mark.parametrize(("field", "type_id", "_"), BUILT_IN + OWN)
def test_settings_are_json_and_make_the_field_again(field, type_id, _):
    settings = json.loads(json.dumps(field.write_settings()))
    assert type(field)(**settings).write_settings() == field.write_settings()


def test_argument_bytes_are_those_ffcv_wrote(reference_betons):
    raw = (reference_betons / "mixed.beton").read_bytes()
    count = int.from_bytes(raw[2:4], "little")
    descriptors = np.frombuffer(raw, [("id", "u1"), ("name", "S16"), ("args", "u1", 1024)], count, 24)
    mine = {TypeId.NDARRAY: BUILT_IN[4][0], TypeId.TENSOR: BUILT_IN[6][0]}
    seen = set()
    for row in descriptors:
        if row["id"] in mine:
            assert mine[row["id"]].to_binary().tobytes() == row["args"].tobytes()
            seen.add(int(row["id"]))
        elif row["id"] != TypeId.CUSTOM:
            assert not row["args"].any()
    assert seen == {4, 6}


def test_a_subclass_is_custom_unless_it_says_more():
    class Mask(RGBImageField):
        pass

    class Short(IntField):
        type_id = TypeId.INT

    assert (Mask.type_id, Short.type_id, RGBImageField.type_id) == (255, 1, 2)
    assert Mask.pointers == ("data_ptr",)


def test_a_field_without_a_decoder_says_so():
    class Bare(Field):
        metadata_type = np.dtype("<u8")
        from_binary = staticmethod(lambda binary: Bare())

        def to_binary(self):
            return np.zeros(1, ARG_TYPE)[0]

        def encode(self, destination, value, malloc):
            destination[0] = value

    with pytest.raises(TypeError, match=r"Bare must define get_decoder_class"):
        Bare().get_decoder_class()
    row = np.zeros(1, np.uint64)
    assert Bare().encode_sample(0, row, 7, None) is None and row[0] == 7


def test_they_print_their_settings():
    assert repr(NDArrayField("<f4", (2, 3))) == "NDArrayField(dtype='<f4', shape=[2, 3])"
    assert repr(IntField()) == "IntField()"
    assert "jpeg_quality=85" in repr(RGBImageField(jpeg_quality=85))


def test_importing_fields_loads_neither_torch_nor_opencv():
    code = (
        "import sys, ffcv_gpu.fields, ffcv_gpu.writer;"
        "print(*{'torch', 'cv2', 'numba', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_exports():
    kinds = {type(field).__name__ for field, _, _ in BUILT_IN + OWN}
    assert sorted(fields.__all__) == sorted(kinds | {"Field", "own_class"})

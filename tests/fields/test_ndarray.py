"""Arrays and tensors: what is stored, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import FormatError, PipelineError, SampleError
from ffcv_gpu.fields import NDArrayField, RaggedField, TorchTensorField
from ffcv_gpu.fields.decoders import NDArrayDecoder
from ffcv_gpu.format import open_beton
from ffcv_gpu.loader import Loader
from ffcv_gpu.writer import DatasetWriter

DTYPES = ["<f4", "|b1", "<f2", "<i8", "|u1", "<c8", ">i4", "<u2", "<M8[ns]", "|S5"]


def stored(field, value):
    memory, row = np.zeros(4096, np.uint8), np.zeros(1, "<u8")
    asked = []

    def malloc(size):
        asked.append(size)
        return 77, memory[1 : 1 + size]  # an odd address

    field.encode(row, value, malloc)
    assert row[0] == 77 and asked == [field.element_size]
    return memory[1 : 1 + asked[0]].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 1, 3)])
def test_arrays_are_stored_little_endian_in_c_order(dtype, shape):
    field = NDArrayField(np.dtype(dtype), shape)
    value = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    little = np.dtype(dtype).newbyteorder("<")
    assert stored(field, value) == value.astype(little).tobytes()
    again = NDArrayField.from_binary(np.frombuffer(field.to_binary().tobytes(), np.uint8))
    assert (again.dtype.str, again.shape) == (little.str, shape)


@pytest.mark.parametrize(
    ("shape", "given"),
    [((1,), ()), ((3,), (3, 1)), ((3, 1), (3,)), ((1, 2, 3), (2, 3)), ((2, 3), (2, 1, 3, 1))],
)
def test_axes_of_length_one_may_be_missing_or_too_many(shape, given):
    value = np.arange(np.prod(shape), dtype="<f4").reshape(given)
    assert stored(NDArrayField("<f4", shape), value) == value.tobytes()
    assert stored(TorchTensorField(torch.float32, shape), torch.from_numpy(value)) == value.tobytes()


def test_a_number_of_numpy_is_an_array_of_one():
    assert stored(NDArrayField("<f4", (1,)), np.float32(2.5)) == np.float32(2.5).tobytes()
    with pytest.raises(SampleError, match="dtype float64"):
        stored(NDArrayField("<f4", (1,)), np.float64(2.5))


def test_strided_arrays_and_other_byte_orders():
    value = np.arange(24, dtype="<i4").reshape(4, 6)[::2, ::3]
    assert stored(NDArrayField("<i4", (2, 2)), value) == value.tobytes()
    assert stored(NDArrayField("<i4", (2, 2)), value.T.astype(">i4")) == value.T.tobytes()
    assert stored(NDArrayField(">i4", (2, 2)), value) == value.tobytes()


@pytest.mark.parametrize("dtype", [*DTYPES, "<U5"])
def test_what_is_stored_is_read(tmp_path, dtype):
    values = np.arange(12).astype(dtype).reshape(3, 2, 2)
    field = NDArrayField(dtype, (2, 2))
    DatasetWriter(tmp_path / "a", {"x": field}, num_workers=1).from_indexed_dataset([(v,) for v in values])
    ((batch,),) = Loader(tmp_path / "a", 3, pipelines={"x": [NDArrayDecoder()]})
    assert batch.dtype == field.dtype
    np.testing.assert_array_equal(batch, values)


def test_a_file_of_ffcv_with_the_other_byte_order_is_not_misread(tmp_path):
    samples = [(np.array([1, 2], "<i4"),)]
    DatasetWriter(tmp_path / "a", {"x": NDArrayField("<i4", (2,))}, num_workers=1).from_indexed_dataset(
        samples
    )
    data = bytearray((tmp_path / "a").read_bytes())
    beton = open_beton(tmp_path / "a")
    data[24 : 24 + 1041] = data[24 : 24 + 1041].replace(b'"<i4"', b'">i4"')
    plain = data[: beton.data_end] + data[beton.table_offset :]
    plain[16:24] = struct.pack("<Q", beton.data_end)
    (tmp_path / "a").write_bytes(plain)
    with pytest.raises(PipelineError, match="field 'x' holds arrays of dtype >i4"):
        Loader(tmp_path / "a", 1)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.zeros(2, "<f8"), r"dtype float64 and shape \(2,\), expected dtype float32 and shape \(4,\)"),
        (np.zeros(4, "<f8"), "expected dtype float32"),
        (np.zeros(4, "<i4"), "expected dtype float32"),
        (np.zeros((2, 2), "<f4"), r"shape \(2, 2\)"),
        (np.zeros(5, "<f4"), r"shape \(5,\)"),
        ([0.0] * 4, "list is not a numpy array"),
        (torch.zeros(4), "Tensor is not a numpy array"),
    ],
)
def test_dtype_and_shape_are_checked_unlike_in_ffcv(value, says):
    with pytest.raises(SampleError, match=says):
        stored(NDArrayField(np.dtype("<f4"), (4,)), value)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("O", (3,)),
        ([("a", "<f4"), ("b", "<i4")], (3,)),
        ("V4", (3,)),
        ("<f4", ()),
        ("<f4", (3, 0)),
        ("<f4", (1,) * 33),
        ("<f4", (-1,)),
        ("S0", (3,)),
    ],
)
def test_what_ffcv_could_not_read_back_is_refused(dtype, shape):
    with pytest.raises(PipelineError, match="NDArrayField"):
        NDArrayField(np.dtype(dtype), shape)


def test_shape_and_dtype_in_the_wrong_order():
    with pytest.raises(PipelineError, match=r"\(4,\) is not a dtype .*; dtype comes first, then shape"):
        NDArrayField((4,), "<f4")


@pytest.mark.parametrize("shape", [(3.5,), 3.5, "12", (2, "3"), None], ids=str)
@pytest.mark.parametrize("field", [NDArrayField, TorchTensorField, RaggedField])
def test_a_shape_is_of_whole_numbers(field, shape):
    with pytest.raises(PipelineError, match=f"{field.__name__}: shape must be whole numbers, not "):
        field("<f4", shape)


@pytest.mark.parametrize("shape", [(1 << 30,), (10**20,), (1 << 31,) * 3], ids=str)
def test_an_array_that_fits_no_page_is_refused(shape):
    with pytest.raises(PipelineError, match="a sample must fit into a page, of less than 4294967296"):
        NDArrayField("<f4", shape)
    assert NDArrayField("u1", (1 << 32) - 1).element_size == (1 << 32) - 1


@pytest.mark.parametrize(
    ("field", "dtype"),
    [(TorchTensorField, "int7"), (TorchTensorField, 5), (RaggedField, "int7"), (RaggedField, torch.float32)],
    ids=str,
)
def test_what_is_no_dtype_is_refused(field, dtype):
    with pytest.raises(PipelineError, match=f"{field.__name__}: .* is not a dtype"):
        field(dtype, (2,))


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_a_dtype_of_quantised_tensors_is_refused():
    with pytest.raises(PipelineError, match=r"numpy has no torch\.qint8"):
        TorchTensorField(torch.qint8, (2,))


def test_a_number_is_a_shape_of_one_side():
    assert NDArrayField("<f4", 7).shape == (7,)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'[["", "<f4"], ["", "<i4"]]', b'[["", "nonsense"]]', b"{", b"7"]
)
def test_argument_bytes_that_say_no_dtype(text):
    binary = np.zeros(1024, np.uint8)
    binary[0] = 3
    binary[256] = len(text)
    binary[264 : 264 + len(text)] = np.frombuffer(text, np.uint8)
    with pytest.raises(FormatError, match="dtype is stored as"):
        NDArrayField.from_binary(binary)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool, torch.uint8])
def test_tensors(dtype):
    field = TorchTensorField(dtype, (2, 3))
    value = torch.arange(6).reshape(2, 3).to(dtype)
    assert field.dtype == value.numpy().dtype
    assert stored(field, value) == value.numpy().tobytes()
    assert stored(field, value.T.contiguous().T) == value.numpy().tobytes()


def test_tensors_with_gradients():
    assert (
        stored(TorchTensorField(torch.float32, (2,)), torch.ones(2, requires_grad=True)) == b"\0\0\x80?" * 2
    )


def test_torchs_default_device_does_not_matter():
    with torch.device("meta"):
        assert TorchTensorField(torch.int64, (7,)).dtype == np.int64


def test_a_file_tells_dtype_and_shape_of_tensors():
    binary = TorchTensorField(torch.int64, (7,)).to_binary().tobytes()
    again = TorchTensorField.from_binary(np.frombuffer(binary, np.uint8))
    assert (type(again), again.dtype, again.shape) == (TorchTensorField, np.dtype("<i8"), (7,))


def test_bfloat16_has_a_way_out():
    with pytest.raises(PipelineError, match=r"view\(torch.int16\)"):
        TorchTensorField(torch.bfloat16, (2,))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.zeros(3, dtype=torch.float64), "expected dtype float32"),
        (torch.zeros(4), r"shape \(4,\)"),
        (np.zeros(3, np.float32), "ndarray is not a torch tensor"),
        (torch.zeros(3, dtype=torch.bfloat16), "bfloat16"),
    ],
)
def test_other_tensors_are_an_error(value, says):
    with pytest.raises(SampleError, match=says):
        stored(TorchTensorField(torch.float32, (3,)), value)

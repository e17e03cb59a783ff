"""Arrays of any length: what is stored, what is refused, and where boxes and points go."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields import IntField, RaggedField
from ffcv_gpu.fields.ragged import BoxDecoder, KeypointDecoder, RaggedDecoder
from ffcv_gpu.steps import Source


def stored(field, value):
    memory, row = np.zeros(4096, np.uint8), np.zeros(1, field.metadata_type)
    field.encode(row, value, lambda size: (77, memory[1 : 1 + size]))
    assert row["ptr"][0] == 77
    return memory[1 : 1 + int(row["size"][0])].tobytes()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "i8", "u1", "?"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_arrays_are_stored_little_endian_in_c_order(dtype, shape, length):
    value = np.arange(length * np.prod(shape, dtype=int)).reshape(length, *shape).astype(dtype)
    expected = value.astype(value.dtype.newbyteorder("<")).tobytes()
    assert stored(RaggedField(dtype, shape), value) == expected
    assert stored(RaggedField(dtype, shape), np.asfortranarray(value)) == expected


def test_tensors_and_empty_lists():
    assert (
        stored(RaggedField("f4", 4), torch.arange(8.0).reshape(2, 4)) == np.arange(8.0, dtype="f4").tobytes()
    )
    for empty in ([], (), np.array([]), np.zeros(0, "i8"), torch.zeros(0)):
        assert stored(RaggedField("f4", 4), empty) == b""


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("f4", [[0.1, 2, 3, 4]] * 2), ("f4", ((1, 2, 3, 4),)), ("i8", [[1, 2, 3, 4]]), ("u1", [[1, 2, 3, 255]])],
)
def test_lists_become_arrays_of_the_fields_dtype(dtype, value):
    assert stored(RaggedField(dtype, 4), value) == np.array(value, dtype).tobytes()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("i8", [[1.5] * 4]), ("u1", [[256] * 4]), ("u1", [[-1] * 4]), ("i2", [[np.int64(70000)] * 4])],
)
def test_lists_that_the_dtype_cannot_hold_are_refused(dtype, value):
    with pytest.raises(SampleError, match=r"and shape \('n', 4\)"):
        stored(RaggedField(dtype, 4), value)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 4)),
        np.zeros((2, 3), "f4"),
        np.zeros(4, "f4"),
        np.float32(1),
        [[0.0] * 3],
        [["a"] * 4],
        np.zeros((0, 5), "f4"),
    ],
)
def test_other_arrays_are_refused(value):
    with pytest.raises(SampleError, match=r"expected float32 and shape \('n', 4\)"):
        stored(RaggedField("f4", 4), value)


@pytest.mark.parametrize(
    "make", [lambda: RaggedField("O"), lambda: RaggedField("S3"), lambda: RaggedField("f4", (2, 0))]
)
def test_arguments(make):
    with pytest.raises(PipelineError, match="RaggedField"):
        make()


@pytest.mark.parametrize(
    ("decoder", "field", "says"),
    [
        (RaggedDecoder(), IntField(), "the class of field 'x' is IntField; IntDecoder reads it"),
        (RaggedDecoder(pad_to=4), RaggedField("f4", 4), "an array of 5 rows; pad_to must be at least 5"),
        (
            BoxDecoder("image"),
            RaggedField("f4", 2),
            r"reads floats of shape \(n, 4\), but field 'x' is RaggedField",
        ),
        (
            RaggedDecoder(pad_to=99, fill=float("nan")),
            RaggedField("i8"),
            "fill=nan does not fit int64, the dtype of 'x'",
        ),
        (RaggedDecoder(pad_to=99, fill=-1), RaggedField("u1"), "fill=-1 does not fit uint8"),
        (RaggedDecoder(pad_to=99, fill=0.5), RaggedField("?"), "fill=0.5 does not fit bool"),
        (KeypointDecoder("image"), RaggedField("i8", 2), r"reads floats of shape \(n, 2\)"),
    ],
)
def test_fields_that_a_decoder_does_not_read(decoder, field, says):
    with pytest.raises(PipelineError, match=says):
        decoder.first_spec(Source("x", field, max_bytes=80))


def test_pad_to_is_a_number():
    with pytest.raises(PipelineError, match="pad_to must be a whole number"):
        RaggedDecoder(pad_to=0)


def stage(box, frame, sign_x=1, shift_x=0, sign_y=1, shift_y=0):
    return SimpleNamespace(
        boxes=np.array([box], np.int32),
        geometry=np.array([[sign_y, shift_y, sign_x, shift_x]], np.int32),
        frame=frame,
    )


def test_boxes_go_where_torchvision_puts_them(torchvision):
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional

    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [100, 80, 100, 80], (50, 4))
    corners = corners.reshape(50, 2, 2)
    boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
    top, left, tall, wide, size = 11, 23, 50, 64, (40, 96)
    theirs = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(80, 100))
    theirs = functional.resized_crop(theirs, top, left, tall, wide, size)
    rows = np.zeros(len(boxes), np.int64)
    crop = stage((top, left, tall, wide), size)
    np.testing.assert_allclose(BoxDecoder("i").moved(boxes, rows, [crop]), theirs.numpy(), atol=1e-9)
    mirrored = stage((top, left, tall, wide), size, sign_x=-1, shift_x=size[1] - 1)
    theirs = functional.horizontal_flip(theirs)
    np.testing.assert_allclose(BoxDecoder("i").moved(boxes, rows, [mirrored]), theirs.numpy(), atol=1e-9)


def test_points_go_where_torchvision_puts_them(torchvision):
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional

    points = np.random.default_rng(0).uniform(30, 60, (50, 2))
    theirs = tv_tensors.KeyPoints(torch.from_numpy(points), canvas_size=(80, 100))
    theirs = functional.resized_crop(theirs, 20, 25, 50, 64, (40, 96))
    rows = np.zeros(50, np.int64)
    mine = KeypointDecoder("i").moved(points, rows, [stage((20, 25, 50, 64), (40, 96))])
    np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-9)
    # torchvision mirrors boxes to width - x, but points, taken for pixels' numbers, to width - 1 - x.
    theirs = functional.horizontal_flip(theirs).numpy() + np.array([1, 0])
    mirrored = stage((20, 25, 50, 64), (40, 96), sign_x=-1, shift_x=95)
    np.testing.assert_allclose(KeypointDecoder("i").moved(points, rows, [mirrored]), theirs, atol=1e-9)


def test_boxes_that_leave_the_image():
    boxes = np.array([[-5, 2, 4, 30], [12, 3, 18, 5]], np.float32)
    crop = [stage((0, 0, 10, 10), (20, 20))]
    rows = np.zeros(2, np.int64)
    assert BoxDecoder("i").moved(boxes, rows, crop).tolist() == [[0, 4, 8, 20], [20, 6, 20, 10]]
    assert BoxDecoder("i", clip=False).moved(boxes, rows, crop).tolist() == [[-10, 4, 8, 60], [24, 6, 36, 10]]
    assert repr(BoxDecoder("i", clip=False, pad_to=3)) == "BoxDecoder(like='i', pad_to=3, clip=False)"


def test_points_through_two_launches_and_a_shift():
    first = stage((10, 20, 40, 40), (20, 20))
    second = stage((5, 5, 10, 10), (20, 20), shift_x=3, shift_y=-2)
    points = np.array([[40.0, 30.0]])
    # (40, 30) -> ((40-20)/2, (30-10)/2) = (10, 10) -> ((10-5)*2, (10-5)*2); output p shows p + shift
    assert KeypointDecoder("i").moved(points, np.zeros(1, np.int64), [first, second]).tolist() == [[7, 12]]

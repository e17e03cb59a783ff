"""Images that are not 3 x 8 bits, and masks: what is stored, and what is refused rather than converted."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields import ImageField, MaskField
from tests.nearest import nearest_by_pillow

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 17, 4), np.uint8)
WIDE = np.random.default_rng(1).integers(0, 65536, (12, 17), np.uint16)


def stored(field, value):
    memory, row = np.zeros(1 << 16, np.uint8), np.zeros(1, field.metadata_type)
    asked = []

    def malloc(size):
        asked.append(size)
        return 77, memory[1 : 1 + size]  # an odd address

    assert field.encode_sample(0, row, value, malloc).mode == "raw"
    height, width = int(row["height"][0]), int(row["width"][0])
    assert row["data_ptr"][0] == 77 and row["mode"][0] == 1
    assert asked == [height * width * field.pixel_bytes]
    return np.frombuffer(memory[1 : 1 + asked[0]].tobytes(), np.dtype(field.dtype).newbyteorder("<")).reshape(
        height, width, field.channels
    )


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def by_pillow(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


GREY = PHOTO[..., 0]
PALETTE = Image.fromarray(PHOTO[..., :3]).quantize(7)
FLOATS = GREY.astype(np.float32) / 7 - 3
CASES = {
    "grey": (ImageField(), GREY, GREY),
    "grey with an axis": (ImageField(), GREY[..., None], GREY),
    "grey of PIL": (ImageField(), Image.fromarray(GREY), GREY),
    "grey PNG": (ImageField(), png(GREY), GREY),
    "grey and alpha": (ImageField(2), Image.fromarray(PHOTO[..., :2].copy(), "LA"), PHOTO[..., :2]),
    "RGBA": (ImageField(4), PHOTO, PHOTO),
    "RGBA of PIL": (ImageField(4), Image.fromarray(PHOTO), PHOTO),
    "RGBA PNG": (ImageField(4), by_pillow(Image.fromarray(PHOTO)), PHOTO),
    "strided": (ImageField(4), PHOTO[::2, ::-3], PHOTO[::2, ::-3]),
    "16 bits": (ImageField(dtype=np.uint16), WIDE, WIDE),
    "16 bits, big-endian": (ImageField(dtype="uint16"), WIDE.astype(">u2"), WIDE),
    "16 bits of PIL": (ImageField(dtype="uint16"), Image.fromarray(WIDE), WIDE),
    "16 bits PNG": (ImageField(dtype="uint16"), by_pillow(Image.fromarray(WIDE)), WIDE),
    "16 bits RGB PNG": (
        ImageField(3, "uint16"),
        png(np.stack([WIDE, WIDE + 1, WIDE + 2], -1)),
        np.stack([WIDE + 2, WIDE + 1, WIDE], -1),
    ),
    "floats": (ImageField(dtype="float32"), FLOATS, FLOATS),
    "floats of PIL": (ImageField(dtype="float32"), Image.fromarray(FLOATS), FLOATS),
    "floats TIFF": (ImageField(dtype="float32"), by_pillow(Image.fromarray(FLOATS), "TIFF"), FLOATS),
    "mask": (MaskField(), GREY, GREY),
    "mask of bools": (MaskField(), GREY > 99, (GREY > 99).astype(np.uint8)),
    "mask of one bit": (MaskField(), Image.fromarray(GREY > 99), (GREY > 99).astype(np.uint8)),
    "palette mask": (MaskField(), PALETTE, np.asarray(PALETTE)),
    "palette mask, PNG": (MaskField(), by_pillow(PALETTE), np.asarray(PALETTE)),
    "palette mask, PNG of 8 bits": (MaskField(), by_pillow(PALETTE, bits=8), np.asarray(PALETTE)),
    "mask of one bit, PNG": (MaskField(), by_pillow(Image.fromarray(GREY > 99)), (GREY > 99) * 1),
    "mask, PNG": (MaskField(), png(GREY), GREY),
    "mask of 16 bits": (MaskField("uint16"), WIDE, WIDE),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_are_stored_as_they_are(name):
    field, value, expected = CASES[name]
    shape = (*expected.shape[:2], field.channels)
    np.testing.assert_array_equal(stored(field, value), expected.reshape(shape))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_masks_of_few_bits_are_numbers_not_grey_levels(depth):
    """A PNG made by hand: neither Pillow nor OpenCV writes grey of 2 or 4 bits."""
    numbers = np.arange(16, dtype=np.uint8).reshape(2, 8) % (1 << depth)
    bits = np.unpackbits(numbers[:, :, None], axis=2)[:, :, 8 - depth :].reshape(2, -1)
    rows = np.packbits(bits, axis=1)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in {
        b"IHDR": struct.pack(">IIBBBBB", 8, 2, depth, 0, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }.items():
        data += (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )
    np.testing.assert_array_equal(stored(MaskField(), data)[..., 0], numbers)
    np.testing.assert_array_equal(stored(ImageField(), data)[..., 0], numbers * (255 // ((1 << depth) - 1)))


def test_a_palette_without_pillow_says_what_to_install(monkeypatch):
    data = by_pillow(PALETTE)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SampleError, match="pip install pillow"):
        stored(MaskField(), data)


def test_a_path(tmp_path):
    (tmp_path / "a.png").write_bytes(png(WIDE))
    np.testing.assert_array_equal(stored(ImageField(dtype="uint16"), tmp_path / "a.png")[..., 0], WIDE)
    np.testing.assert_array_equal(stored(ImageField(dtype="uint16"), str(tmp_path / "a.png"))[..., 0], WIDE)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_large_images_are_shrunk_by_opencv(dtype):
    value = (WIDE >> 8).astype(dtype)
    found = stored(ImageField(dtype=dtype, max_resolution=9), value)
    np.testing.assert_array_equal(found[..., 0], cv2.resize(value, (9, 6), interpolation=cv2.INTER_AREA))


def test_masks_are_shrunk_to_values_that_were_there():
    mask = np.where(WIDE > 30000, 200, 10).astype(np.uint8)
    found = stored(MaskField(max_resolution=9), mask)[..., 0]
    assert found.shape == (6, 9) and set(np.unique(found)) == {10, 200}
    np.testing.assert_array_equal(found, nearest_by_pillow(mask, 6, 9))


BAD = {
    "floats into 8 bits": (ImageField(), FLOATS, r"dtype float32 and shape \(12, 17\), expected uint8 and"),
    "16 bits into 8": (ImageField(), WIDE, "dtype uint16"),
    "8 bits into 16": (ImageField(dtype="uint16"), GREY, "expected uint16"),
    "colour into grey": (ImageField(), PHOTO[..., :3], r"\(height, width, 1\)"),
    "colour PNG into grey": (ImageField(), png(PHOTO[..., :3]), r"shape \(12, 17, 3\)"),
    "RGB into RGBA": (ImageField(4), PHOTO[..., :3], r"\(height, width, 4\)"),
    "RGB of PIL into RGBA": (ImageField(4), Image.fromarray(PHOTO[..., :3].copy()), r"\(12, 17, 3\)"),
    "palette": (ImageField(), Image.fromarray(GREY).convert("P"), "mode P is not supported; use one of L,"),
    "CMYK": (ImageField(4), Image.fromarray(PHOTO[..., :3].copy()).convert("CMYK"), "mode CMYK"),
    "float64": (ImageField(dtype="float32"), GREY / 7, "dtype float64"),
    "mask of signed": (MaskField(), GREY.astype(np.int64), "dtype int64"),
    "a cut palette mask": (MaskField(), by_pillow(PALETTE)[:-30], "Pillow"),
    "colour PNG as mask": (MaskField(), png(PHOTO[..., :3]), r"\(height, width, 1\)"),
    "no pixels": (ImageField(), GREY[:0], r"shape \(0, 17\)"),
    "no image": (ImageField(), b"nothing", "not an image that OpenCV reads"),
    "no bytes": (ImageField(), b"", "0 bytes"),
    "no path": (ImageField(), "/no/such.png", "cannot read '/no/such.png'"),
    "list": (ImageField(), [1, 2], "list is not an image"),
    "too long": (ImageField(), np.zeros((1, 70000), np.uint8), "at most 65535"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_converted(name):
    field, value, says = BAD[name]
    with pytest.raises(SampleError, match=says):
        stored(field, value)


TENSORS = {
    "mask": (MaskField(), GREY, GREY),
    "mask of int64": (MaskField(), GREY.astype(np.int64), GREY),
    "mask with a channel": (MaskField(), GREY[None].astype(np.int64), GREY),
    "mask by torchvision": (MaskField(), GREY[None].astype(np.float32) / 255, GREY),
    "mask of 16 bits": (MaskField("uint16"), WIDE.astype(np.int64), WIDE),
    "RGBA": (ImageField(4), PHOTO.transpose(2, 0, 1), PHOTO),
    "floats": (ImageField(dtype="float32"), FLOATS, FLOATS),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_refused_with_the_call_that_makes_it_an_image(name):
    field, array, expected = TENSORS[name]
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    with pytest.raises(
        SampleError, match=r"Tensor is not an image; .* path; for a tensor.*\.numpy"
    ) as raised:
        stored(field, tensor)
    call = str(raised.value).split("; for a ")[1].partition(", ")[2]
    found = stored(field, eval(call, {"tensor": tensor, "torch": torch}))
    np.testing.assert_array_equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ImageField(0), "channels must be 1 to 4"),
        (lambda: ImageField(5), "channels must be 1 to 4"),
        (lambda: ImageField(True), "channels must be 1 to 4"),
        (lambda: ImageField(1, "int32"), "dtype must be one of uint8, uint16, float32, not int32"),
        (lambda: ImageField(1, "x"), "ImageField: 'x' is not a dtype"),
        (lambda: ImageField(3), "use RGBImageField for 3 x 8 bits"),
        (lambda: ImageField(1, max_resolution=0), "max_resolution"),
        (lambda: MaskField("float32"), "a mask holds uint8 or uint16 classes"),
        (lambda: MaskField("int64"), "a mask holds uint8 or uint16 classes, not int64"),
    ],
)
def test_arguments(make, says):
    with pytest.raises(PipelineError, match=says):
        make()


@pytest.mark.parametrize("channels", [np.int64(2), 2.0], ids=["numpy's", "float"])
def test_channels_are_stored_as_a_whole_number(channels):
    field = ImageField(channels)
    again = ImageField.from_binary(np.frombuffer(field.to_binary().tobytes(), np.uint8))
    assert type(field.channels) is type(again.channels) is int and again.channels == 2

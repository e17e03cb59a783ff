"""What is no image, damaged images, and arguments that cannot be."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields import ImageField, RGBImageField
from tests.fields.stored import Stored, opened, png


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 1), np.uint8), r"shape \(8, 8, 1\)"),
        (np.zeros((8, 8, 3), np.float32), "dtype float32"),
        (np.zeros((8, 8, 3), np.uint16), "dtype uint16"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        (np.zeros(100, np.uint8), "as bytes"),
        (np.zeros((), np.uint8), r"shape \(\)"),
        (np.zeros((8, 8), np.uint8), r"ImageField\(1\) stores grey"),
        (np.zeros((8, 8, 4), np.uint8), r"array\[..., :3\] takes three"),
        (np.zeros((3, 8, 8), np.uint8), r"array.transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 3), np.float32), r"\(255 \* array\).round"),
        (torch.zeros((3, 8, 8), dtype=torch.uint8), r"Tensor is not an image.*permute\(1, 2, 0\).numpy"),
        (
            torch.zeros((3, 8, 8)),
            r"Tensor is not an image.*in 0..1, \(255 \* tensor\).round\(\).byte\(\).permute",
        ),
        (np.zeros((8, 8, 3), np.uint16), r"array.astype\(np.uint8\), or ImageField\(3, 'uint16'\)$"),
        (np.zeros((8, 8, 3), np.int64), r"for whole numbers in 0..255, array.astype\(np.uint8\)$"),
        (7, "int is not an image"),
        (None, "NoneType is not an image"),
        ("/no/such/file.jpg", "cannot read '/no/such/file.jpg': No such file"),
        (b"", "unreadable image: 0 bytes"),
        (b"not an image", "unreadable image"),
        (b"\xff\xd8\xff\xe0", "unreadable image: JPEG, byte"),
        (np.zeros((65536, 1, 3), np.uint8), "1 x 65536 pixels; a side may have at most 65535"),
        (Image.new("I;16", (8, 8)), "more than 8 bits"),
        (Image.new("F", (8, 8)), "more than 8 bits"),
    ],
)
@pytest.mark.parametrize("field", [RGBImageField(), RGBImageField("jpg")])
def test_what_is_no_image_is_an_error(field, value, says):
    with pytest.raises(SampleError, match=says):
        Stored(field, value)


@pytest.mark.parametrize("field", [RGBImageField(), ImageField()], ids=["RGB", "grey"])
def test_a_pipe_does_not_block(field, tmp_path):
    """In a folder of images, it would hang the writer's worker until somebody writes to it."""
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(SampleError, match=r"pipe\.jpg' is a pipe or a device"):
        Stored(field, str(tmp_path / "pipe.jpg"))


@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"mode": "CMYK"}])
@pytest.mark.parametrize("field", [RGBImageField(), RGBImageField("raw"), RGBImageField("jpg", 30)])
def test_a_damaged_jpeg_is_an_error_in_every_mode(make_jpeg, kind, field):
    data = make_jpeg(60, 90, **kind)
    for damaged in (data[: len(data) // 2], data[: len(data) // 2] + b"\xff\xd9"):
        with pytest.raises(SampleError, match=r"unreadable image.*repair or skip"):
            Stored(field, damaged)


def test_the_header_check_does_not_decode(make_jpeg):
    data = make_jpeg(60, 90)
    damaged = data[: len(data) // 2] + b"\xff\xd9"
    result = Stored(RGBImageField(check="header"), damaged)
    assert (result.data, result.flags) == (damaged, 0)
    with pytest.raises(SampleError, match="truncated"):
        Stored(RGBImageField(check="header"), data[: len(data) // 2])


def test_a_truncated_png_is_an_error(make_photo):
    data = png(make_photo(60, 90))
    with pytest.raises(SampleError, match="unreadable image"):
        Stored(RGBImageField(), data[: len(data) // 2])
    with pytest.raises(SampleError, match="unreadable image: Pillow"):
        Stored(RGBImageField(), opened(data[: len(data) // 2]))


def test_a_good_image_after_a_bad_one(make_jpeg):
    field = RGBImageField()
    good = make_jpeg(60, 90)
    with pytest.raises(SampleError):
        Stored(field, good[:500])
    assert Stored(field, good).data == good
    assert Stored(field, make_jpeg(300, 200)).size == (300, 200)


@pytest.mark.parametrize(
    "arguments",
    [
        {"write_mode": "png"},
        {"max_resolution": 0},
        {"max_resolution": (256, 128)},
        {"max_resolution": "256"},
        {"max_resolution": 256.5},
        {"max_resolution": True},
        {"max_resolution": float("inf")},
        {"smart_threshold": -1},
        {"smart_threshold": float("inf")},
        {"jpeg_quality": 90.5},
        {"jpeg_quality": 0},
        {"jpeg_quality": 101},
        {"compress_probability": 1.5},
        {"write_mode": "proportion", "compress_probability": None},
        {"exif": "turn"},
        {"check": "none"},
    ],
)
def test_arguments_are_checked(arguments):
    with pytest.raises(PipelineError, match=rf"RGBImageField: .*{list(arguments)[-1]}"):
        RGBImageField(**arguments)

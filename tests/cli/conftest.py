"""What the tests of the command line share: a runner, an image folder, a file with every kind of field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

N = 14
#: (height, width) of sample i
SIZES = [(40 + 9 * (i % 4), 120 - 11 * (i % 5)) for i in range(N)]


@pytest.fixture
def run():
    """``run("info", path, "--json")``: the result of the command line, as typer's runner gives it."""
    from ffcv_gpu.cli.app import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def samples(make_jpeg, make_photo) -> list[tuple[Any, ...]]:
    """(image, label, score, vector, text): images with even numbers are JPEG bytes, the others pixels."""
    rows = []
    for i, (height, width) in enumerate(SIZES):
        chroma = "4:4:4" if i % 3 else "4:2:0"
        jpeg = make_jpeg(height, width, i, subsampling=chroma, orientation=6 if i == 4 else 0)
        image = make_photo(height, width, i) if i % 2 else jpeg
        vector = np.arange(6, dtype=np.float32).reshape(2, 3) * i
        rows.append((image, i % 3, i / 7, vector, np.frombuffer(b"text" * i, np.uint8)))
    return rows


@pytest.fixture(scope="session")
def small(samples, tmp_path_factory) -> Path:
    """A file of ours with an image, an integer, a float, an array and a text per sample."""
    from ffcv_gpu.fields import BytesField, FloatField, IntField, NDArrayField, RGBImageField
    from ffcv_gpu.writer import DatasetWriter

    path = tmp_path_factory.mktemp("cli") / "small.beton"
    fields = {
        "image": RGBImageField(),
        "label": IntField(),
        "score": FloatField(),
        "vector": NDArrayField(np.dtype("float32"), (2, 3)),
        "text": BytesField(),
    }
    writer = DatasetWriter(path, fields, page_size=1 << 21, num_workers=1, progress=False)
    writer.from_indexed_dataset(samples)
    return path


@pytest.fixture
def damaged(small, tmp_path):
    """``damaged(offset)``: a copy of the small file with the byte at `offset` changed."""

    def make(offset: int) -> Path:
        content = bytearray(small.read_bytes())
        content[offset] ^= 0x55
        path = tmp_path / "damaged.beton"
        path.write_bytes(content)
        return path

    return make


@pytest.fixture(scope="session")
def photo_folder(make_jpeg, make_photo, tmp_path_factory) -> Path:
    """Photos in ``ant/``, ``bee/`` and ``cat/``: JPEGs, one of them rotated by EXIF, and one PNG."""
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    for number, (kind, amount) in enumerate((("ant", 4), ("bee", 3), ("cat", 2))):
        (root / kind).mkdir()
        for i in range(amount):
            orientation = 6 if (kind, i) == ("ant", 1) else 0
            jpeg = make_jpeg(60 + 10 * i, 90, 10 * number + i, orientation=orientation)
            (root / kind / f"{i}.jpg").write_bytes(jpeg)
    Image.fromarray(make_photo(50, 70, 3)).save(root / "cat" / "png.png")
    return root

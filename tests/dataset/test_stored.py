"""A file's fields as objects; and a file that cannot be opened because too many are."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffcv_gpu.dataset.stored import StoredFields, stored_fields
from ffcv_gpu.errors import FormatError, PipelineError, ReadError
from ffcv_gpu.fields import BytesField, Field, FloatField, IntField, MaskField, NDArrayField
from ffcv_gpu.format import FieldDescType, HeaderType
from ffcv_gpu.loader import Loader
from ffcv_gpu.writer import DatasetWriter


class OwnInt(IntField):
    """A user's field."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "a.beton"
    fields: dict[str, Field] = {"own": OwnInt(), "mask": MaskField(), "x": FloatField(), "text": BytesField()}
    samples = [(i, np.zeros((2, 3), np.uint8), 0.5, b"abc") for i in range(4)]
    DatasetWriter(file, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return file


def kinds(stored: StoredFields) -> dict[str, type]:
    return {name: type(field) for name, field in stored.fields.items()}


def test_every_field_gets_its_class(path: Path) -> None:
    stored = stored_fields(path, {"own": OwnInt})
    assert kinds(stored) == {"own": IntField, "mask": MaskField, "x": FloatField, "text": BytesField}
    assert stored.custom == {"own": OwnInt, "mask": MaskField}
    assert stored.open().column("own").tolist() == [0, 1, 2, 3]


def test_a_given_class_takes_precedence(path: Path) -> None:
    stored = stored_fields(path, {"own": OwnInt, "x": IntField})
    assert kinds(stored)["x"] is IntField and stored.open().column("x").dtype == np.int64


def test_fields_and_classes_that_do_not_belong_together(path: Path) -> None:
    with pytest.raises(PipelineError, match=r"a\.beton: field 'own' has a custom type") as raised:
        stored_fields(path, {})
    assert raised.value.field == "own"
    with pytest.raises(PipelineError, match=r"no field 'y'; its fields are 'own', 'mask', 'x', 'text'"):
        stored_fields(path, {"own": OwnInt, "y": IntField})


class OwnShort(IntField):
    """Reads records of another size."""

    metadata_type = np.dtype("<i2")  # type: ignore[assignment]

    @staticmethod
    def from_binary(binary: Any) -> Field:
        return OwnShort()


def test_a_class_that_reads_other_records_is_not_damage(path: Path) -> None:
    """Every field behind it would be read at the wrong place; the file was called damaged."""
    with pytest.raises(PipelineError, match=r"'text' is a BytesField, with records of 16 bytes; .*reads 8"):
        Loader(path, 2, custom_fields={"own": OwnInt, "text": IntField})
    with pytest.raises(FormatError, match=r"or field 'own' was written by another class"):
        Loader(path, 2, custom_fields={"own": OwnShort})


def test_another_kind_of_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("This is a text, and no dataset at all. " * 100)
    with pytest.raises(FormatError, match=r"text: version .* not a \.beton file"):
        stored_fields(tmp_path / "text", {})


@pytest.mark.parametrize("damaged", ["mask", "grid"])
def test_a_damaged_description_is_named_with_its_place(tmp_path: Path, damaged: str) -> None:
    """Which of a list of files, and which of its fields, the class that reads the bytes does not know."""
    file = tmp_path / "a.beton"
    grid = NDArrayField(np.dtype("f4"), (2,))
    fields: dict[str, Field] = {"x": IntField(), "mask": MaskField(), "grid": grid}
    sample = (1, np.zeros((2, 3), np.uint8), np.zeros(2, np.float32))
    DatasetWriter(file, fields, num_workers=1, progress=False).from_indexed_dataset([sample])
    content = bytearray(file.read_bytes())
    place = HeaderType.itemsize + list(fields).index(damaged) * FieldDescType.itemsize
    at = place + 17 if damaged == "grid" else content.index(b"{", place)  # a side; the settings
    content[at : at + 8] = b"\xff" * 8
    file.write_bytes(content)
    says = rf"a\.beton: field '{damaged}', described at byte {place}: .*damaged"
    with pytest.raises(FormatError, match=says):
        stored_fields(file, {})
    assert stored_fields(file, {damaged: IntField}).custom[damaged] is IntField  # its description is not read


@contextmanager
def files_left(number: int) -> Iterator[None]:
    """Let this process open no more than `number` files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    while len(held) <= number or held[-1] - held[0] < len(held) - 1:  # until no descriptor is free between
        held.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, limits[1]))
    try:
        for file in held[len(held) - number :]:
            os.close(file)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in held[: len(held) - number]:
            os.close(file)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_too_many_open_files(path: Path, left: int) -> None:
    what = r"cannot read .*a\.beton: Too many open files; raise the limit of open files"
    with files_left(left), pytest.raises(ReadError, match=what):
        Loader(path, 2, custom_fields={"own": OwnInt})
    assert len(Loader(path, 2, custom_fields={"own": OwnInt})) == 2

"""Parquet files of images in Hugging Face's layout: a column of {bytes, path} or bytes, and one of labels.

Nothing is decoded here, and the writer stores JPEG files unchanged.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from ffcv_gpu.convert import required
from ffcv_gpu.errors import PipelineError, ReadError, SampleError
from ffcv_gpu.format import crc32c

__all__ = ["ParquetImages"]

#: names that decide if several columns could hold the images, or the labels
IMAGE_NAMES = ("image", "img", "jpg", "bytes")
LABEL_NAMES = ("label", "labels", "cls", "target", "fine_label")
#: decompressed row groups kept in memory per process
GROUPS = 2
#: A row group is read in pieces of about this many bytes: an Arrow array of images holds less than 2 GiB.
PIECE_BYTES = 1 << 28
#: ... and of at most this many rows: equal images may be stored once, and counted once in the file's sizes.
PIECE_ROWS = 1024


class ParquetImages:
    """``dataset[i]`` is (bytes of the image file, label), in the order of the files and their rows.

    A row group is read whole when one of its rows is first requested; the last two are kept in memory.

    Parameters
    ----------
    paths : str, os.PathLike or iterable of them
    image, label : str, optional
        Column names. Default: the only column of a suitable type, or the only one of these with a usual name.

    Attributes
    ----------
    classes : tuple of str or None
        Class names by label, from Hugging Face's metadata in the first file that has it; None without.
    fingerprint : str
        CRC32C of each row group's rows and bytes, from the metadata. The writer uses it to notice
        that a file was replaced between the runs, or shards, of a conversion.

    Raises
    ------
    ReadError
        If no file is given, or one cannot be read as parquet; from ``dataset[i]``, if its row group cannot.
    PipelineError
        If pyarrow is not installed, a column does not exist or is ambiguous, or two files have different
        class names.
    SampleError
        From ``dataset[i]``, if the image or label is null.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        image: str | None = None,
        label: str | None = None,
    ) -> None:
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        self.paths = tuple(os.fspath(path) for path in given)
        if not self.paths:
            raise ReadError("no parquet files given")
        counts: list[int] = []
        sizes: list[int] = []
        self._groups: list[tuple[str, int]] = []
        named: dict[tuple[str, ...], str] = {}
        for path in self.paths:
            file = self._opened(path)
            metadata, schema = file.metadata, file.schema_arrow
            groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
            counts += [group.num_rows for group in groups]
            sizes += [group.total_byte_size for group in groups]
            self._groups += [(path, k) for k in range(metadata.num_row_groups)]
            image = column_of(path, schema, "image", image, is_image, IMAGE_NAMES)
            label = column_of(path, schema, "label", label, is_label, LABEL_NAMES)
            if (classes := class_names(schema, label)) is not None:
                named.setdefault(classes, path)
        if len(named) > 1:
            first, other, *_ = named.values()
            raise PipelineError(
                f"the class names of {first} and {other} differ: a label would have two meanings"
            )
        self.classes = next(iter(named), None)
        self.image, self.label = image, label
        self.fingerprint = f"{crc32c(np.array([counts, sizes], np.int64)):08x}"
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
        self._process = os.getpid()

    def _opened(self, path: str) -> Any:
        arrow = _pyarrow()
        try:
            return arrow.parquet.ParquetFile(path)
        except (OSError, arrow.ArrowException) as error:
            raise ReadError(f"cannot read {path!r} as a parquet file: {error}") from error

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = int(np.searchsorted(self._ends, index, "right"))
        images, labels = self._group(group)
        row = index - (int(self._ends[group - 1]) if group else 0)
        data, label = images[row].as_py(), labels[row].as_py()
        if isinstance(data, dict):
            data = data["bytes"]
        if data is None or label is None:
            missing = self.image if data is None else self.label
            path, number = self._groups[group]
            raise SampleError(f"{path}, row {row} of row group {number}: column {missing!r} is null")
        return data, label

    def _group(self, number: int) -> tuple[Any, Any]:
        """Return the images and labels of a row group, as chunked Arrow arrays."""
        if self._process != os.getpid():
            self._forget()
        if number not in self._kept:
            table = self._table(*self._groups[number])
            self._kept[number] = table.column(self.image), table.column(self.label)
            if len(self._kept) > GROUPS:
                self._kept.popitem(last=False)
        return self._kept[number]

    def _table(self, path: str, group: int) -> Any:
        file, columns = self._opened(path), [self.image, self.label]
        try:
            # Without threads: writer processes are forked, and Arrow's thread pool does not survive a fork.
            pieces = file.iter_batches(_piece_rows(file.metadata.row_group(group)), [group], columns, False)
            return _pyarrow().Table.from_batches(pieces)
        except (OSError, _pyarrow().ArrowException) as error:
            raise ReadError(f"cannot read row group {group} of {path!r}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_process": -1}

    def __repr__(self) -> str:
        return f"ParquetImages({', '.join(map(repr, self.paths))}): {len(self):,} images"


def _piece_rows(group: Any) -> int:
    """Return how many rows of a row group to read at once."""
    fitting = PIECE_BYTES * int(group.num_rows) // max(int(group.total_byte_size), 1)
    return max(1, min(PIECE_ROWS, fitting))


def _pyarrow() -> ModuleType:
    """Return pyarrow with its parquet module."""
    why = "parquet files need pyarrow; pip install 'ffcv-gpu[parquet]'"
    required("pyarrow.parquet", why)
    return required("pyarrow", why)


def column_of(path: str, schema: Any, kind: str, given: str | None, fits: Any, usual: tuple[str, ...]) -> str:
    """Return the column of images or labels: `given`, or the only suitable one."""
    able = [entry.name for entry in schema if fits(entry.type)]
    known = ", ".join(f"{entry.name} ({entry.type})" for entry in schema)
    if given is not None:
        if given not in able:
            raise PipelineError(f"{path}: no column {given!r} of {kind}s; the columns are {known}")
        return given
    likely = able if len(able) == 1 else [name for name in able if name in usual]
    if len(likely) != 1:
        raise PipelineError(
            f"{path}: which column holds the {kind}s? set {kind}= (--{kind}-column) to one of {known}"
        )
    return str(likely[0])


def is_image(kind: Any) -> bool:
    """Return True if a column of this Arrow type can hold image files: binary, or a struct with `bytes`."""
    types = _pyarrow().types
    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and is_image(kind.field(place).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def is_label(kind: Any) -> bool:
    """Return True if a column of this Arrow type can hold labels: integers."""
    return bool(_pyarrow().types.is_integer(kind))


def class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Return the label's class names from Hugging Face's metadata in the file's schema; None without."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None:
        return None
    try:
        names = json.loads(noted)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(map(str, names))

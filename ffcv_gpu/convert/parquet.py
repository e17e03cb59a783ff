"""Parquet files of images, as Hugging Face keeps them: a column of {bytes, path} or of bytes, one of labels.

The writer stores the JPEGs among them as they are; nothing is decoded here.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError, ReadError, SampleError
from ffcv_gpu.format import crc32c

__all__ = ["ParquetImages"]

#: names that are taken for the column of a kind where there are several
IMAGE_NAMES = ("image", "img", "jpg", "bytes")
LABEL_NAMES = ("label", "labels", "cls", "target", "fine_label")
#: decompressed row groups kept in memory, each process its own
GROUPS = 2


class ParquetImages:
    """``dataset[i]`` is (bytes of the image file, label), in the order of the files and their rows.

    A row group is read whole when one of its rows is asked for, and kept while its rows are.

    Parameters
    ----------
    paths : str, os.PathLike or iterable of them
    image, label : str, optional
        Columns. If not given: the only one that can be it, or the only one with a usual name.

    Attributes
    ----------
    classes : tuple of str or None
        Class names by label, if the file carries Hugging Face's.
    fingerprint : str
        Of the files' own descriptions: rows and bytes of each row group. By it the writer tells that a file
        was replaced between the runs, or shards, of a conversion.

    Raises
    ------
    ReadError
        If a file cannot be read as parquet.
    PipelineError
        If pyarrow is not installed, or a column is not there or cannot be told from others.
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
        for path in self.paths:
            file = self._opened(path)
            metadata, schema = file.metadata, file.schema_arrow
            groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
            counts += [group.num_rows for group in groups]
            sizes += [group.total_byte_size for group in groups]
            self._groups += [(path, k) for k in range(metadata.num_row_groups)]
            image = column_of(path, schema, "image", image, is_image, IMAGE_NAMES)
            label = column_of(path, schema, "label", label, is_label, LABEL_NAMES)
            if path == self.paths[0]:
                self.classes = class_names(schema, label)
        self.image, self.label = image, label
        self.fingerprint = f"{crc32c(np.array([counts, sizes], np.int64)):08x}"
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
        self._process = os.getpid()

    def _opened(self, path: str) -> Any:
        arrow = require_pyarrow()
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
        if data is None or label is None:
            missing = self.image if data is None else self.label
            path, number = self._groups[group]
            raise SampleError(f"{path}, row {row} of row group {number}: column {missing!r} is empty there")
        return data, label

    def _group(self, number: int) -> tuple[Any, Any]:
        """Return the images' bytes and the labels of a row group, as arrow arrays."""
        if self._process != os.getpid():
            self._forget()
        if number not in self._kept:
            path, group = self._groups[number]
            # Without threads: a writer process was forked, and arrow's pool of threads with it was not.
            table = self._opened(path).read_row_group(
                group, columns=[self.image, self.label], use_threads=False
            )
            images = table.column(self.image).combine_chunks()
            if hasattr(images, "field"):
                images = images.field("bytes")
            self._kept[number] = images, table.column(self.label).combine_chunks()
            if len(self._kept) > GROUPS:
                self._kept.popitem(last=False)
        return self._kept[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_process": -1}

    def __repr__(self) -> str:
        return f"ParquetImages({', '.join(map(repr, self.paths))}): {len(self):,} images"


def require_pyarrow() -> ModuleType:
    """Return pyarrow with its parquet module; raise `PipelineError` with the line to install without it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PipelineError("parquet files need pyarrow; pip install 'ffcv-gpu[parquet]'") from error
    module: ModuleType = pyarrow
    return module


def column_of(path: str, schema: Any, kind: str, given: str | None, fits: Any, usual: tuple[str, ...]) -> str:
    """Return the column of images or labels: `given`, or the only one that can be it."""
    able = [entry.name for entry in schema if fits(entry.type)]
    known = ", ".join(f"{entry.name} ({entry.type})" for entry in schema)
    if given is not None:
        if given not in able:
            raise PipelineError(f"{path}: no column {given!r} of {kind}s; there are {known}")
        return given
    likely = able if len(able) == 1 else [name for name in able if name in usual]
    if len(likely) != 1:
        raise PipelineError(f"{path}: cannot tell which column holds the {kind}; say {kind}=, one of {known}")
    return str(likely[0])


def is_image(kind: Any) -> bool:
    """Whether a column of this arrow type can hold image files: bytes, or a struct with a member bytes."""
    types = require_pyarrow().types
    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and is_image(kind.field(place).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def is_label(kind: Any) -> bool:
    """Whether a column of this arrow type can hold labels: whole numbers."""
    return bool(require_pyarrow().types.is_integer(kind))


def class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Return the label's class names out of what Hugging Face's library notes in a file, None without."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None:
        return None
    try:
        names = json.loads(noted)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(map(str, names))

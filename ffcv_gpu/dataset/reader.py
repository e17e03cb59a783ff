"""`Reader`: an open file, with FFCV's attribute names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.dataset.stored import BUILTIN_FIELDS
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import Beton, HeaderType
from ffcv_gpu.format.layout import FieldDescType, metadata_dtype

__all__ = ["Reader", "get_handlers", "get_metadata_type"]


class Reader:
    """The contents of a ``.beton`` file other than its payloads. All arrays are read-only views of the file.

    Parameters
    ----------
    fname : str
        The file, or a URL; see `Loader`.
    custom_handlers : mapping of str to Field class, optional
        For fields of type 255.
    cache_dir : path, optional
        For a URL: the folder of its local copy.

    Attributes
    ----------
    file_name : str
    num_samples, num_fields, page_size : int
        `page_size` in bytes.
    header : record of `HeaderType`
    field_descriptors : records of `FieldDescType`, (num_fields,)
    field_names : list of str
    handlers : dict of str to Field
    metadata_type : numpy dtype
    metadata : records of `metadata_type`, (num_samples,), members ``f0``, ``f1``, ...
    alloc_table : records of `ALLOC_TABLE_TYPE`: ``sample_id``, ``ptr``, ``size``
    class_names, source_ids, skipped
        What our writer stores in addition to FFCV's; see `ffcv_gpu.format.Beton`.

    Raises
    ------
    FormatError
        If the file is not a valid ``.beton`` file.
    """

    def __init__(
        self,
        fname: str | os.PathLike[str],
        custom_handlers: Mapping[str, Any] | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(fname, Dataset):  # a loader's
            dataset, self.file_name = fname, fname.path
        else:
            self.file_name = os.fspath(fname)
            dataset = Dataset(self.file_name, custom_handlers or {}, os_cache=True, cache_dir=cache_dir)
        beton = dataset.beton
        if not isinstance(beton, Beton):
            raise PipelineError(f"a Reader reads one file: make one of each path, not of {dataset.path}")
        start, end = HeaderType.itemsize, HeaderType.itemsize + len(beton.fields) * FieldDescType.itemsize
        self.header = np.asarray(beton.data[:start].view(HeaderType))[0]
        self.field_descriptors = np.asarray(beton.data[start:end].view(FieldDescType))
        self.num_samples, self.num_fields = beton.num_samples, len(beton.fields)
        self.page_size = beton.page_size
        self.field_names = list(beton.field_names)
        self.handlers = dict(dataset.fields)
        self.metadata = beton.metadata
        self.metadata_type = beton.metadata.dtype
        self.alloc_table = beton.allocations
        self.class_names, self.source_ids, self.skipped = beton.class_names, beton.source_ids, beton.skipped


def get_handlers(field_descriptors: Iterable[Any]) -> list[Any]:
    """Return a Field for each record of `FieldDescType`, None for custom types."""
    handlers = []
    for descriptor in field_descriptors:
        kind = BUILTIN_FIELDS.get(int(descriptor["type_id"]))
        handlers.append(None if kind is None else kind.from_binary(descriptor["arguments"]))
    return handlers


def get_metadata_type(handlers: Iterable[Any]) -> np.dtype[Any]:
    """Return the dtype of one sample's metadata record, with members ``f0``, ``f1``, ..."""
    return metadata_dtype([np.dtype(handler.metadata_type) for handler in handlers])

"""Checks the arguments of `DatasetWriter`, so that no mistake surfaces after hours of writing."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.context import BaseContext
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu import __version__
from ffcv_gpu.cpus import usable_cpus
from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import MAX_PAGE_SIZE, MIN_PAGE_SIZE, FieldDescriptor, page_size_is_valid
from ffcv_gpu.steps import whole

__all__ = [
    "SourceIdsWish",
    "checked_class_names",
    "checked_fields",
    "checked_page_size",
    "checked_path",
    "checked_workers",
    "descriptor_of",
    "noted",
    "own_source_ids",
    "positions",
    "source_texts",
    "start_context",
    "writer_name",
]

#: ``source_ids=``: ``source_ids[key]`` or ``source_ids(key)`` is the text for ``dataset[key]``
SourceIdsWish = Sequence[str] | Mapping[Any, str] | Callable[[Any], str] | None


def positions(
    dataset: Any, indices: Iterable[Any] | None, shuffle: bool, seed: int | None
) -> npt.NDArray[Any]:
    """Return the dataset's indices in file order, in a newly allocated array."""
    if seed is not None and not shuffle:
        raise PipelineError("seed= only applies to a shuffle: give shuffle_indices=True too")
    name = type(dataset).__name__
    if isinstance(dataset, str | os.PathLike):
        raise PipelineError(
            f"the dataset is a path, {os.fspath(dataset)!r}, not what is there;"
            " ffcv_gpu.convert.image_folder.ImageFolder(path) reads a folder with one sub-folder per class"
        )
    if not hasattr(dataset, "__getitem__"):
        raise PipelineError(
            f"{name} has no __getitem__, which is needed here; from_iterable writes what can only be iterated"
        )
    if indices is None:
        if not hasattr(dataset, "__len__"):
            raise PipelineError(
                f"{name} has no length; give indices= (what to write), or give it to from_iterable"
            )
        chosen: npt.NDArray[Any] = np.arange(len(dataset))
    else:
        chosen = np.array(indices if isinstance(indices, (Sequence, np.ndarray)) else list(indices))
    if chosen.dtype.kind == "b" or chosen.ndim != 1:
        raise PipelineError(
            f"indices must be a list of indices, not dtype {chosen.dtype}, shape {chosen.shape};"
            " np.flatnonzero(mask) turns a mask into one"
        )
    if not len(chosen):
        raise SampleError("nothing to write: the dataset (or indices=) is empty; a .beton file needs one")
    if shuffle and seed is None:
        np.random.shuffle(chosen)  # noqa: NPY002 - as in FFCV: np.random.seed decides
    elif shuffle:
        np.random.RandomState(seed).shuffle(chosen)  # as after np.random.seed(seed)
    return chosen


def checked_path(path: str | os.PathLike[str]) -> str:
    """Return the path of the file to write; `PipelineError` for a URL."""
    from ffcv_gpu.readers import is_url  # 20 ms that a worker process does not need

    text = os.fspath(path)
    if is_url(text):
        raise PipelineError(f"DatasetWriter writes local files, not {text}; upload the finished file")
    return text


def checked_fields(fields: Any) -> dict[str, Field]:
    """Return `fields`, a mapping or pairs of name and field, as a dict; `PipelineError` for anything else."""
    pairs = list(fields.items() if isinstance(fields, Mapping) else fields)
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs) or not pairs:
        what = f"fields must be a mapping, not {fields!r}" if pairs else "no fields"
        raise PipelineError(f"{what}; give {{'image': RGBImageField(), 'label': IntField()}}")
    for name, field in pairs:
        if not isinstance(name, str):
            raise PipelineError(f"field name {name!r}: a name must be a str")
        if not isinstance(field, Field):
            fix = f"; create one: {field.__name__}(...)" if isinstance(field, type) else ""
            raise PipelineError(f"field {name!r}: expected a Field, not {field!r}{fix}")
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PipelineError(f"two fields are named {twice[0]!r}; give each its own name")
    return dict(pairs)


def checked_page_size(page_size: int) -> int:
    """Return `page_size` as an int; `PipelineError` if a file cannot have it."""
    if not page_size_is_valid(page_size):
        raise PipelineError(
            f"page_size must be a power of two, at least {MIN_PAGE_SIZE} and less than {MAX_PAGE_SIZE},"
            f" not {page_size}"
        )
    return int(page_size)


def descriptor_of(name: str, field: Field) -> FieldDescriptor:
    """Return the descriptor of a field, as the file stores it."""
    return FieldDescriptor(name, int(field.type_id), np.asarray(field.to_binary()).tobytes())


def checked_class_names(names: Iterable[str] | None) -> list[str] | None:
    """Return the class names as a list: an iterator can be read only once, and they are noted twice."""
    if isinstance(names, str | Mapping | set | frozenset):  # whose order is not that of the labels
        raise PipelineError(f"class_names must be a list of names, not {names!r}; in the order of the labels")
    return None if names is None else [str(name) for name in names]


def noted(fields: Mapping[str, Field], class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return what the file records about how it was written; nothing in it differs between runs."""
    info: dict[str, Any] = {
        "writer": writer_name(),
        "fields": {
            name: {"class": type(field).__name__, "settings": dict(field.write_settings())}
            for name, field in fields.items()
        },
    }
    if class_names is not None:
        info["class_names"] = list(class_names)
    try:
        json.dumps(info, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"write_settings of a field must be JSON-compatible: {error}") from error
    return info


def start_context(wish: str | BaseContext | None) -> BaseContext:
    """Return the multiprocessing context that starts the worker processes."""
    if isinstance(wish, BaseContext):
        return wish
    try:
        return multiprocessing.get_context(wish or ("fork" if sys.platform == "linux" else None))
    except ValueError as error:
        raise PipelineError(f"mp_context: {error}; give 'fork', 'spawn' or 'forkserver'") from error


def checked_workers(workers: Any) -> int:
    """Return the number of worker processes, the usual one if `workers` is less than 1."""
    count = whole(workers, "num_workers", -math.inf)
    if count >= 1:
        return count
    return 1 if multiprocessing.current_process().daemon else usable_cpus()


def writer_name() -> str:
    """Return the name and version that the file records as its writer."""
    return f"ffcv-gpu {__version__}"


def own_source_ids(dataset: Any) -> Sequence[str] | None:
    """Return ``dataset.source_ids`` if it is a text per sample; others may use the name in another sense.

    Of a torch `Subset`, also of another one, those of the samples that it selects.
    """
    found = getattr(dataset, "source_ids", None)
    if isinstance(found, str) or not isinstance(found, Sequence) or not hasattr(dataset, "__len__"):
        return _selected_source_ids(dataset)
    return found if len(found) == len(dataset) > 0 and isinstance(found[0], str) else None


def _selected_source_ids(dataset: Any) -> Sequence[str] | None:
    """Return the source ids of a dataset whose sample k is ``dataset.dataset[dataset.indices[k]]``."""
    source: Any = getattr(dataset, "dataset", None)
    indices: Any = getattr(dataset, "indices", None)
    found = None if source is None or indices is None else own_source_ids(source)
    if found is None:
        return None
    try:
        texts = [found[index(k)] for k in indices]
        return texts if len(texts) == len(dataset) else None
    except (LookupError, TypeError, ValueError):
        return None  # other things by these names


def source_texts(wish: SourceIdsWish, keys: Iterable[Any]) -> list[str] | None:
    """Return the source id of each key; None if `wish` is None."""
    if wish is None:
        return None
    texts = []
    for key in keys:
        try:
            text = wish(key) if callable(wish) else wish[key]
        except (LookupError, TypeError) as error:
            raise PipelineError(
                f"source_ids has no entry for dataset[{key!r}]: {error!r}; does the dataset have that sample?"
            ) from error
        if not isinstance(text, str):
            raise PipelineError(f"source_ids: {text!r} for dataset[{key!r}] is not a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PipelineError(f"source_ids: {text!r} for dataset[{key!r}] is not UTF-8: {error}") from error
        texts.append(text)
    return texts

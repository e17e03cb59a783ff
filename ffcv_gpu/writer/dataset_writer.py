"""`DatasetWriter`: an indexed dataset becomes one ``.beton`` file."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    MIN_PAGE_SIZE,
    FieldDescriptor,
    FileLayout,
    metadata_dtype,
    pack_descriptors,
    page_size_is_valid,
)
from ffcv_gpu.writer.builder import BetonBuilder
from ffcv_gpu.writer.encoder import Job, Part, SampleEncoder
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.progress import Progress, ProgressWish
from ffcv_gpu.writer.report import WriteReport
from ffcv_gpu.writer.workers import WorkerPool

__all__ = ["DatasetWriter"]

PartsInOrder = Iterator[tuple[Part, npt.NDArray[np.uint8]]]


class DatasetWriter:
    """Writes a dataset into one ``.beton`` file, which FFCV can read too.

    The same dataset gives the same file, byte for byte, with any number of workers.

    Parameters
    ----------
    fname : str or os.PathLike
        Written under another name beside it, which it takes when it is whole; until then a file of that
        name stays as it is.
    fields : mapping of str to Field
        In the order of the values in a sample. Names have at most 16 ASCII characters.
    page_size : int, default 8 MiB
        A power of two, 2 MiB <= page_size < 4 GiB. All payloads of a sample lie in one page, so it is also
        the largest sample there can be.
    num_workers : int, default -1
        Processes that fetch and encode samples; 1: this process does. Below 1: the CPUs it may use.
    progress : None, bool or callable, keyword only
        None: a bar if standard error is a terminal, or in a notebook. True: a bar. False: nothing. Else it
        is called as ``progress(done, total)``, at most ten times a second.
    mp_context : str or multiprocessing context, keyword only
        How to start the processes: "fork" by default on Linux, where nothing need be picklable.
    class_names : sequence of str, keyword only
        Noted in the file, for readers of ours.

    Raises
    ------
    FormatError
        For names that a file cannot hold.
    PipelineError
        For any other argument that cannot work.
    """

    def __init__(
        self,
        fname: str | os.PathLike[str],
        fields: Mapping[str, Field],
        page_size: int = DEFAULT_PAGE_SIZE,
        num_workers: int = -1,
        *,
        progress: ProgressWish = None,
        mp_context: str | BaseContext | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.fname = os.fspath(fname)
        self.fields = _checked_fields(fields)
        self.page_size = _checked_page_size(page_size)
        self.num_workers = num_workers if num_workers >= 1 else _usable_cpus()
        self.metadata_type = metadata_dtype([field.record_dtype for field in self.fields.values()])
        self._descriptors = tuple(_descriptor(name, field) for name, field in self.fields.items())
        pack_descriptors(self._descriptors)  # checks the names
        self._progress = progress
        self._context = _context(mp_context)
        self._info = _info(self.fields, class_names)

    def from_indexed_dataset(
        self,
        dataset: Any,
        indices: Iterable[Any] | None = None,
        chunksize: int = 100,
        shuffle_indices: bool = False,
    ) -> WriteReport:
        """Write the samples of a dataset.

        Parameters
        ----------
        dataset
            Anything with ``dataset[i]`` giving a tuple with one value for each field, and with a length
            if `indices` is not given.
        indices : sequence, optional
            Which samples, in which order.
        chunksize : int
            Samples a worker is given at once.
        shuffle_indices : bool
            Shuffle by numpy's global generator, as FFCV does. The caller's sequence stays as it is.

        Returns
        -------
        WriteReport

        Raises
        ------
        SampleError
            Naming the sample and the field, if one cannot be stored.
        WriteError
            If the file cannot be written, or a worker dies.
        """
        if chunksize < 1:
            raise PipelineError(f"chunksize must be at least 1, not {chunksize}")
        began = time.perf_counter()
        chosen = _positions(dataset, indices, shuffle_indices)
        layout = FileLayout(self.page_size, len(chosen), self._descriptors, self.metadata_type)
        job = Job(dataset, chosen, self.fields, self.metadata_type, self.page_size)
        with OutputFile(self.fname) as output:
            builder = BetonBuilder(job, layout, output)
            self._encode(job, chunksize, builder)
            size = builder.finish({**self._info, "images": builder.tally.as_json()})
            output.finish()
        return WriteReport(self.fname, len(chosen), size, builder.tally, time.perf_counter() - began)

    def _encode(self, job: Job, chunksize: int, builder: BetonBuilder) -> None:
        total = len(job.indices)
        ranges = [(start, min(start + chunksize, total)) for start in range(0, total, chunksize)]
        workers = min(self.num_workers, len(ranges))
        with contextlib.ExitStack() as stack:
            if workers > 1:
                # Before the bar is drawn, so that no half-drawn line is copied into the children.
                pool = stack.enter_context(WorkerPool(job, ranges, workers, self._context))
                progress = stack.enter_context(Progress(self._progress, total))
                parts = pool.parts(progress)
            else:
                progress = stack.enter_context(Progress(self._progress, total))
                parts = _parts_of_this_process(job, progress)
            for part, memory in parts:
                builder.add(part, memory)


def _parts_of_this_process(job: Job, progress: Progress) -> PartsInOrder:
    encoder = SampleEncoder(job, progress)
    memory = np.empty(job.slot_bytes, np.uint8)
    position = 0
    while position < len(job.indices):
        part = encoder.encode(position, len(job.indices), memory)
        yield part, memory
        position += part.count


def _positions(dataset: Any, indices: Iterable[Any] | None, shuffle: bool) -> npt.NDArray[Any]:
    """Return the dataset's indices in the order of the file, in an array of our own."""
    if indices is None:
        if not hasattr(dataset, "__len__"):
            raise PipelineError(f"{type(dataset).__name__} has no length; give indices=, what to write")
        chosen: npt.NDArray[Any] = np.arange(len(dataset))
    else:
        chosen = np.array(indices if isinstance(indices, (Sequence, np.ndarray)) else list(indices))
    if chosen.dtype.kind == "b" or chosen.ndim != 1:
        raise PipelineError(
            f"indices must be a list of indices, not dtype {chosen.dtype}, shape {chosen.shape};"
            " np.flatnonzero(mask) turns a mask into one"
        )
    if not len(chosen):
        raise SampleError("nothing to write: the dataset (or indices=) is empty, a .beton file has a sample")
    if shuffle:
        np.random.shuffle(chosen)  # noqa: NPY002 - FFCV's: np.random.seed decides
    return chosen


def _checked_fields(fields: Any) -> dict[str, Field]:
    pairs = list(fields.items() if isinstance(fields, Mapping) else fields)
    if not pairs:
        raise PipelineError("no fields; give a mapping: {'image': RGBImageField(), 'label': IntField()}")
    for name, field in pairs:
        if not isinstance(name, str):
            raise PipelineError(f"field name {name!r}: a name is a str")
        if not isinstance(field, Field):
            fix = f"; make one: {field.__name__}(...)" if isinstance(field, type) else ""
            raise PipelineError(f"field {name!r}: expected a Field, not {field!r}{fix}")
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PipelineError(f"two fields are called {twice[0]!r}; give each a name of its own")
    return dict(pairs)


def _checked_page_size(page_size: int) -> int:
    if not page_size_is_valid(page_size):
        raise PipelineError(
            f"page_size must be a power of two, at least {MIN_PAGE_SIZE} and less than {MAX_PAGE_SIZE},"
            f" not {page_size}"
        )
    return int(page_size)


def _descriptor(name: str, field: Field) -> FieldDescriptor:
    return FieldDescriptor(name, int(field.type_id), np.asarray(field.to_binary()).tobytes())


def _info(fields: Mapping[str, Field], class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return what the file notes of its making, without anything that another run would not repeat."""
    # Not by an import statement: imports inside the package point down, and the version stands on top.
    version = importlib.import_module("ffcv_gpu").__version__
    info: dict[str, Any] = {
        "writer": f"ffcv-gpu {version}",
        "fields": {
            name: {"class": type(field).__name__, "settings": dict(field.write_settings())}
            for name, field in fields.items()
        },
    }
    if class_names is not None:
        info["class_names"] = [str(name) for name in class_names]
    try:
        json.dumps(info, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"write_settings of a field must be JSON: {error}") from error
    return info


def _context(wish: str | BaseContext | None) -> BaseContext:
    if isinstance(wish, BaseContext):
        return wish
    try:
        return multiprocessing.get_context(wish or ("fork" if sys.platform == "linux" else None))
    except ValueError as error:
        raise PipelineError(f"mp_context: {error}; 'fork', 'spawn' or 'forkserver'") from error


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

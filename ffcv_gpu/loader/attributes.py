"""Attributes of FFCV's Loader that scripts read or change, and how a loader prints itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from ffcv_gpu.compat.epoch_iterator import NoGraph
from ffcv_gpu.compat.memory_managers import MemoryManager, OSCacheManager
from ffcv_gpu.compat.process_cache import ProcessCacheManager
from ffcv_gpu.cpus import cpus_per_rank
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.dataset.reader import Reader
from ffcv_gpu.draws import MAX_SEED
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.loader.arguments import checked_indices
from ffcv_gpu.loader.assembly import Assembly
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.iterator import EpochIterator
from ffcv_gpu.loader.traversal import TraversalOrder, check_order, course_over
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.outputs import is_default, output_specs
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.steps import IntArray, whole

__all__ = ["FfcvAttributes"]


class FfcvAttributes:
    """The attributes that `Loader` shares with FFCV's; cached ones are created on first access."""

    fname: str | list[str]
    next_epoch: int
    dataset: Dataset
    _batch_size: int
    _batches_ahead: int
    _num_workers: int
    _order: TraversalOrder
    _seed: int
    _args: dict[str, Any]
    _assembly: Assembly
    _indices: IntArray
    _programs: tuple[Program, ...]
    recompile: bool
    _code: dict[str, Program] | None = None
    _follow_fork: Callable[..., None]
    _epoch: Callable[..., EpochIterator]
    _forget_place: Callable[[], None]

    @property
    def batch_size(self) -> int:
        """Samples per batch; a new number takes effect at the next ``iter()``."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, samples: int) -> None:
        self._batch_size = whole(samples, "batch_size", 1)

    @property
    def batches_ahead(self) -> int:
        """Finished batches to keep ready, 0 counts as 1; a new number takes effect at the next ``iter()``."""
        return self._batches_ahead

    @batches_ahead.setter
    def batches_ahead(self, batches: int) -> None:
        self._batches_ahead = max(whole(batches, "batches_ahead", 0), 1)  # FFCV takes 0, too

    @property
    def num_workers(self) -> int:
        """Worker threads; a new number takes effect at the next ``iter()``; less than 1: as the Loader's."""
        return self._num_workers

    @num_workers.setter
    def num_workers(self, workers: int) -> None:
        count = whole(workers, "num_workers", -math.inf)
        self._num_workers = count if count >= 1 else cpus_per_rank()

    @property
    def indices(self) -> IntArray:
        """Rows of the file that this loader uses, int64 (n,); new ones take effect at the next ``iter()``.

        That is an epoch from its start, also if the one before was left early or was to be resumed.
        Assigning them also updates `traversal_order`, unless that was assigned other rows of its own.
        """
        return self._indices

    @indices.setter
    def indices(self, indices: Any) -> None:
        rows = checked_indices(indices, len(self.dataset), self.dataset.path)
        if self._order.indices is self._indices:
            self._order.indices = rows
        if not np.array_equal(rows, self._indices):
            self._forget_place()
        self._indices = self._args["indices"] = self._assembly.indices = rows

    @property
    def traversal_order(self) -> TraversalOrder:
        """The order object; an assigned one takes effect at the next ``iter()``."""
        return self._order

    @traversal_order.setter
    def traversal_order(self, order: TraversalOrder) -> None:
        if isinstance(order, type) or not callable(getattr(order, "sample_order", None)):
            raise PipelineError(
                f"traversal_order must be an object of a TraversalOrder subclass, made of this loader, not"
                f" {order!r}; ffcv_gpu.traversal_order has the built-in ones: Random(loader)"
            )
        before, self._order = vars(self).get("_order"), order
        try:
            check_order(self)
        except BaseException:
            if before is not None:
                self._order = before
            raise

    @property
    def seed(self) -> int:
        """Determines order and augmentation; a new one takes effect for both at the next ``iter()``.

        That is an epoch from its start, as with new `indices`.
        """
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        before, self._seed = vars(self).get("_seed"), whole(seed, "seed", 0, MAX_SEED)
        if hasattr(self, "_order"):
            self._order.seed = self._seed
            if self._seed != before:
                self._forget_place()

    def next_traversal_order(self) -> IntArray:
        """Return the order of the next epoch: this rank's share, as rows of the file, int64 (n,)."""
        return np.asarray(self.traversal_order.sample_order(self.next_epoch), dtype=np.int64)

    @cached_property
    def first_traversal_order(self) -> IntArray:
        """The order of epoch 0, as `next_traversal_order` returns it: int64 (n,)."""
        return np.asarray(self.traversal_order.sample_order(0), dtype=np.int64)

    @cached_property
    def reader(self) -> Reader:
        """The file's header, fields and metadata, with FFCV's attribute names."""
        return Reader(self.dataset)

    @cached_property
    def memory_manager(self) -> MemoryManager:
        """Reads payloads by pointer, in the way set by ``os_cache``; the loader itself does not use it."""
        if self.dataset.remotes:
            raise PipelineError(
                f"{self.dataset.path}: memory managers cannot read from a URL; pass a file's path"
            )
        mapped = self._args["os_cache"]
        return OSCacheManager(self.reader) if mapped else ProcessCacheManager(self.reader)

    @property
    def pipelines(self) -> Mapping[str, Any]:
        """The argument `pipelines`, read-only, but its lists are yours (FFCV's attribute is always empty).

        What is appended to a list, or to the `transforms` of a `PipelineSpec`, takes effect at the next
        ``iter()``.
        """
        return MappingProxyType(self._args["pipelines"])

    @property
    def pipeline_specs(self) -> Mapping[str, PipelineSpec]:
        """The source, decoder and steps of each output, defaults filled in, in batch order; read-only.

        They are made anew each time. As in FFCV, to append to their `transforms` has no effect, neither at
        the next ``iter()`` nor by `generate_code`; append to the lists and specs in `pipelines` instead.
        """
        given = self._args["pipelines"]
        specs = {}
        for output in output_specs(given, self.dataset.fields):
            specs[output.name] = PipelineSpec(output.field, output.decoder, list(output.steps))
            specs[output.name].default_pipeline = is_default(given.get(output.name))
        return MappingProxyType(specs)

    @property
    def field_name_to_f_ix(self) -> dict[str, int]:
        """Index of each field in the file; its metadata column is ``f0``, ``f1``, ..."""
        return {name: place for place, name in enumerate(self.dataset.fields)}

    @property
    def code(self) -> dict[str, Program]:
        """A description of how each output is made; FFCV has generated functions here.

        As in FFCV, the same object until the pipelines change, unless the loader has ``recompile=True``.
        """
        code = {program.name: program for program in self._programs}
        if self._code is None or self.recompile or repr(code) != repr(self._code):
            self._code = code
        return self._code

    def generate_code(self) -> None:
        """Do nothing: pipelines are read again at each ``iter()``."""

    @property
    def graph(self) -> NoGraph:
        """Only what a subclass of FFCV's `EpochIterator` needs; there is no generated code to describe."""
        return NoGraph()

    def _epoch_over(self, batches: Sequence[Any]) -> EpochIterator:
        """Start an epoch over explicit batches, for a caller that has already incremented `next_epoch`."""
        self._follow_fork()
        return self._epoch(Progress(max(self.next_epoch - 1, 0), course_over(self, batches)))

    def __repr__(self) -> str:
        if not hasattr(self, "_indices"):  # a debugger or a traceback shows it
            return "Loader: its constructor has not finished"
        chosen, total = len(self.indices), len(self.dataset)
        return (
            f"Loader({self.dataset.path!r}): {chosen:,} of {total:,} samples in batches of {self.batch_size}"
        )

    def __getitem__(self, index: Any) -> NoReturn:
        """Raise `TypeError`: a torch `DataLoader` made from a Loader comes here."""
        raise TypeError(
            "a Loader makes whole batches and is iterated itself, in place of a DataLoader; single samples"
            " are in ffcv_gpu.convert.beton.BetonDataset(path)[i]"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raise `TypeError`: a loader can be neither pickled nor copied."""
        raise TypeError(
            f"the Loader of {self.dataset.path} has threads and open files, and cannot be pickled or"
            " copied; create one from the same arguments in the process that iterates it"
        )

"""Orders of an epoch as objects: the built-in ones, and FFCV's base class for a user's own."""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.loader.course import Course, GivenBatches
from ffcv_gpu.loader.faults import during
from ffcv_gpu.sampling import OrderOption, deal, epoch_order
from ffcv_gpu.steps import IntArray

__all__ = [
    "ORDER_MAP",
    "ORDER_TYPE",
    "QuasiRandom",
    "Random",
    "Sequential",
    "TraversalOrder",
    "check_order",
    "course_of",
    "course_over",
    "is_shared",
    "length_of",
    "order_name",
    "traversal",
]

logger = logging.getLogger("ffcv_gpu.loader.loader")


class TraversalOrder(ABC):
    """Base of custom orders, FFCV's protocol.

    Parameters
    ----------
    loader : Loader
        Whose order it is; further arguments come from the Loader's `order_kwargs`.

    Raises
    ------
    PipelineError
        At each ``iter(loader)``, if `sample_order` returns anything but rows of `indices`.

    Attributes
    ----------
    loader : Loader
        None when it is gone: its order does not keep it alive.
    indices : int64 (n,)
        The loader's rows of the file.
    seed : int
    distributed : bool
    sampler
        None, or a torch sampler of positions in `indices`, as in FFCV. A built-in order follows one that is
        assigned to it if the loader has ``distributed=True``; it then determines this rank's samples.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.indices: IntArray = loader.indices
        self.seed: int = loader.seed
        self.distributed: bool = loader.distributed
        self.sampler: Any = None

    @property
    def loader(self) -> Any:
        """Whose order it is."""
        return self._loader()

    @loader.setter
    def loader(self, loader: Any) -> None:
        # A cycle would keep a dropped loader, and its memory, until the garbage is collected.
        self._loader = weakref.ref(loader)

    @abstractmethod
    def sample_order(self, epoch: int) -> Sequence[int] | IntArray:
        """Return rows of `indices` in the order of this epoch (this rank's share)."""


class BuiltinOrder(TraversalOrder):
    """Base of the built-in orders, which are those of `sampling.epoch_order`."""

    option: ClassVar[OrderOption]

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        quasi = self.option is OrderOption.QUASI_RANDOM
        self._pages: IntArray | None = loader.dataset.beton.sample_pages() if quasi else None
        self._rank, self._world_size = loader.rank, loader.world_size

    @property
    def obeys_sampler(self) -> bool:
        """True if an assigned sampler determines this rank's samples."""
        return self.distributed and self.sampler is not None

    def whole_order(self, epoch: int) -> IntArray:
        """Return the epoch's order for all ranks, int64."""
        return epoch_order(self.option, self.indices, seed=self.seed, epoch=epoch, sample_pages=self._pages)

    def sample_order(self, epoch: int) -> IntArray:
        """Return this rank's share of the epoch's order, int64."""
        if self.obeys_sampler:
            self.sampler.set_epoch(epoch)
            return np.asarray(self.indices)[np.fromiter(self.sampler, np.int64)]
        return deal(self.whole_order(epoch), self._rank, self._world_size)


class Sequential(BuiltinOrder):
    """The order of `indices`."""

    option = OrderOption.SEQUENTIAL


class Random(BuiltinOrder):
    """numpy's permutation by (seed, epoch), FFCV's."""

    option = OrderOption.RANDOM


class QuasiRandom(BuiltinOrder):
    """Random pages, and samples random among some pages: reads little at a time."""

    option = OrderOption.QUASI_RANDOM


ORDER_TYPE = OrderOption | type[TraversalOrder]
#: what `order` may be beside a class; scripts put their own orders in, under an option or a name of their own
ORDER_MAP: dict[Any, type[TraversalOrder]] = {
    order.option: order for order in (Sequential, Random, QuasiRandom)
}


def traversal(order: Any, loader: Any, order_kwargs: Mapping[str, Any]) -> TraversalOrder:
    """Return the order object for the Loader's argument `order`.

    Raises
    ------
    PipelineError
        If it is neither an `OrderOption` (or another key of `ORDER_MAP`) nor a `TraversalOrder` subclass.
    """
    kind = ORDER_MAP.get(order, order) if isinstance(order, Hashable) else order
    if isinstance(kind, type) and issubclass(kind, BuiltinOrder) and order_kwargs:
        raise PipelineError(f"order_kwargs are for an order of your own; {kind.option.name} takes none")
    if isinstance(kind, type) and issubclass(kind, TraversalOrder):
        return kind(loader, **order_kwargs)
    raise PipelineError(f"order must be an OrderOption or a TraversalOrder subclass, not {order!r}")


def is_shared(order: TraversalOrder) -> bool:
    """True if all ranks share one order, which is split here; False if each rank has its own."""
    return isinstance(order, BuiltinOrder) and not order.obeys_sampler


def order_name(order: TraversalOrder) -> str:
    """Return a name for what decides the order, equal for equal orders: as `state_dict` keeps it."""
    kind = type(order)
    return order.option.name if isinstance(order, BuiltinOrder) else f"{kind.__module__}.{kind.__qualname__}"


def course_of(loader: Any, epoch: int, done: int = 0) -> Course:
    """Return the course of an epoch of `loader`, from position `done` on.

    Raises
    ------
    PipelineError
        If an order of the user's own is none: not one row of whole numbers, or not rows of `indices`. Or if
        rows were put into a built-in order that are none of them.
    """
    order = loader.traversal_order
    if is_shared(order):
        rows = order.whole_order(epoch)
        if order.indices is not loader.indices:  # a script's own, put in there as with FFCV
            rows = checked_rows(rows, f"{order_name(order)}.sample_order", loader)
        return dealt(rows, loader, done)
    with during(lambda: f"in {order_name(order)}.sample_order({epoch})"):
        rows = np.asarray(order.sample_order(epoch))
    rows = checked_rows(rows, f"{order_name(order)}.sample_order", loader)
    return Course(rows, loader.batch_size, loader.drop_last, done=done)


def course_over(loader: Any, batches: Sequence[Any]) -> Course:
    """Return the course of an epoch of `loader` over explicit batches, sequences of rows of the file.

    Raises
    ------
    PipelineError
        If a batch is not one-dimensional and of integers, or contains rows outside the loader's `indices`.
    """
    bounds = np.cumsum([0, *map(len, batches)], dtype=np.int64)
    rows = np.concatenate(batches) if len(batches) else np.zeros(0, np.int64)
    order = checked_rows(rows, "a batch", loader)
    return GivenBatches(order, loader.batch_size, drop_last=False, bounds=bounds)


def check_order(loader: Any) -> None:
    """Raise what is wrong with the order of `loader`; warn if its next epoch has no batch.

    Raises
    ------
    PipelineError
        As `course_of`.
    """
    course = course_of(loader, loader.next_epoch)
    if not len(course):
        logger.warning(
            "the next epoch of %s has no batch: its samples, %d, are fewer than batch_size=%d, and"
            " drop_last=True leaves out what is not full",
            *(loader.fname, course.samples, loader.batch_size),
        )


def length_of(loader: Any) -> int:
    """Return how many batches the coming epoch of `loader` has, from its beginning on."""
    order = loader.traversal_order
    if is_shared(order):
        return len(dealt(np.asarray(order.indices), loader))  # a shuffled order is as long
    return len(course_of(loader, loader.next_epoch))


def dealt(order: IntArray, loader: Any, done: int = 0) -> Course:
    """Return the course of an order that all ranks share."""
    batch_size, rank, world_size = loader.batch_size, loader.rank, loader.world_size
    return Course(order, batch_size, loader.drop_last, rank, world_size, done)


def checked_rows(rows: Any, what: str, loader: Any) -> IntArray:
    """Return `rows` as int64 (n,); raise `PipelineError` naming `what` if they are not rows of `loader`."""
    rows, samples = np.asarray(rows), len(loader.dataset)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise PipelineError(
            f"{what}: expected one row of whole numbers, not {rows.dtype} of shape {rows.shape}"
        )
    wrong = (rows < 0) | (rows >= samples)
    if wrong.any():
        raise PipelineError(f"{what}: {rows[wrong][0]} is no row of the file, which has {samples} samples")
    checked: IntArray = rows.astype(np.int64)
    known = np.zeros(samples, np.bool_)  # pipelines are made for images of the sizes that these rows have
    known[loader.indices] = True
    if not known[checked].all():
        row = checked[~known[checked]][0]
        raise PipelineError(f"{what}: row {row} is not among the loader's indices")
    return checked

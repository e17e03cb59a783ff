"""Orders of an epoch as objects: the built-in ones, and FFCV's base class for custom ones."""

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
    """Base class of custom orders, with FFCV's protocol.

    Parameters
    ----------
    loader : Loader
        The loader that uses the order. Further arguments come from the Loader's `order_kwargs`.

    Raises
    ------
    PipelineError
        At each ``iter(loader)``, if `sample_order` returns anything other than rows of `indices`.

    Attributes
    ----------
    loader : Loader
        Held by a weak reference: None once the loader has been collected.
    indices : int64 (n,)
        The loader's rows of the file.
    seed : int
    distributed : bool
    sampler
        None, or a torch sampler of positions in `indices`, as in FFCV. If one is assigned to a built-in order
        and the loader has ``distributed=True``, it determines this rank's samples.

    Examples
    --------
    Sampling with replacement, each row of the file with a weight of its own, on any number of ranks:

    >>> class Weighted(TraversalOrder):
    ...     def __init__(self, loader, weights):
    ...         super().__init__(loader)
    ...         self.shares = weights[self.indices] / weights[self.indices].sum()
    ...
    ...     def sample_order(self, epoch):
    ...         rank, ranks = self.loader.rank, self.loader.world_size
    ...         number = len(self.indices) // ranks * ranks
    ...         generator = np.random.default_rng([self.seed, epoch])
    ...         return generator.choice(self.indices, number, p=self.shares)[rank::ranks]
    >>> labels = BetonDataset("train.beton").column("label")                             # doctest: +SKIP
    >>> weights = 1 / np.bincount(labels)[labels]                                        # doctest: +SKIP
    >>> Loader("train.beton", 256, order=Weighted, order_kwargs={"weights": weights})    # doctest: +SKIP
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.indices: IntArray = loader.indices
        self.seed: int = loader.seed
        self.distributed: bool = loader.distributed
        self.sampler: Any = None

    @property
    def loader(self) -> Any:
        """The loader that uses this order; None once it has been collected."""
        return self._loader()

    @loader.setter
    def loader(self, loader: Any) -> None:
        # A reference cycle would keep a dropped loader and its memory until the garbage collector runs.
        self._loader = weakref.ref(loader)

    @abstractmethod
    def sample_order(self, epoch: int) -> Sequence[int] | IntArray:
        """Return this rank's rows of `indices` in the order of this epoch, (n,).

        ``self.loader.rank`` and ``self.loader.world_size`` say which share that is; unlike the built-in
        orders, the result is not dealt out.
        """


class BuiltinOrder(TraversalOrder):
    """Base class of the built-in orders, which `sampling.epoch_order` computes."""

    option: ClassVar[OrderOption]

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        quasi = self.option is OrderOption.QUASI_RANDOM
        self._pages: IntArray | None = loader.dataset.beton.sample_pages() if quasi else None
        self._rank, self._world_size = loader.rank, loader.world_size

    @property
    def obeys_sampler(self) -> bool:
        """Whether an assigned sampler determines this rank's samples."""
        return self.distributed and self.sampler is not None

    def whole_order(self, epoch: int) -> IntArray:
        """Return the epoch's order for all ranks, int64 (n,)."""
        return epoch_order(self.option, self.indices, seed=self.seed, epoch=epoch, sample_pages=self._pages)

    def sample_order(self, epoch: int) -> IntArray:
        """Return this rank's share of the epoch's order, int64 (n,)."""
        if self.obeys_sampler:
            self.sampler.set_epoch(epoch)
            return np.asarray(self.indices)[np.fromiter(self.sampler, np.int64)]
        return deal(self.whole_order(epoch), self._rank, self._world_size)


class Sequential(BuiltinOrder):
    """The order of `indices`."""

    option = OrderOption.SEQUENTIAL


class Random(BuiltinOrder):
    """numpy's permutation, seeded from seed and epoch as in FFCV."""

    option = OrderOption.RANDOM


class QuasiRandom(BuiltinOrder):
    """Shuffled within a moving pool of pages, so that each page is read once."""

    option = OrderOption.QUASI_RANDOM


ORDER_TYPE = OrderOption | type[TraversalOrder]
#: what `order` may be besides a class; scripts add custom orders, under an option or a key of their own
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
    if order_kwargs and isinstance(kind, type) and kind in (Sequential, Random, QuasiRandom):
        raise PipelineError(f"order_kwargs are for custom orders; {kind.option.name} takes none")
    if isinstance(kind, type) and issubclass(kind, TraversalOrder):
        return kind(loader, **order_kwargs)
    # FFCV's own OrderOption, or ffcv_gpu.ssl's, prints like ours
    whose = f" of {type(order).__module__}" if type(order).__name__ == "OrderOption" else ""
    raise PipelineError(
        "order must be an OrderOption of ffcv_gpu.loader (OrderOption.RANDOM) or a TraversalOrder subclass,"
        f" not {order!r}{whose}"
    )


def is_builtin(order: TraversalOrder) -> bool:
    """Return whether it orders as a built-in one does: a subclass may override `sample_order`, as in FFCV."""
    own = isinstance(order, BuiltinOrder) and "sample_order" not in vars(order)
    return own and type(order).sample_order is BuiltinOrder.sample_order


def is_shared(order: TraversalOrder) -> bool:
    """Return whether all ranks share one order, which is split here; otherwise each rank has its own."""
    return isinstance(order, BuiltinOrder) and is_builtin(order) and not order.obeys_sampler


def order_name(order: TraversalOrder) -> str:
    """Return the name of an order that `state_dict` stores, the same for orders of the same kind."""
    kind = type(order)
    if isinstance(order, BuiltinOrder) and is_builtin(order):
        return order.option.name
    return f"{kind.__module__}.{kind.__qualname__}"


def course_of(loader: Any, epoch: int, done: int = 0) -> Course:
    """Return the course of an epoch of `loader`, from position `done` onwards.

    Raises
    ------
    PipelineError
        If a custom order does not return a one-dimensional array of rows of `indices`, or fewer than `done`,
        or a built-in order was assigned other rows.
    """
    order = loader.traversal_order
    if is_shared(order):
        rows = order.whole_order(epoch)
        if order.indices is not loader.indices:  # assigned by a script, as in FFCV
            rows = checked_rows(rows, f"{order_name(order)}.sample_order", loader)
        return dealt(rows, loader, done)
    with during(lambda: f"in {order_name(order)}.sample_order({epoch})"):
        rows = np.asarray(order.sample_order(epoch))
    rows = checked_rows(rows, f"{order_name(order)}.sample_order", loader)
    if done > rows.size:
        raise PipelineError(
            f"epoch {epoch} cannot be resumed after {done} samples: {order_name(order)}.sample_order now "
            f"returns {rows.size}, fewer than when the state was saved"
        )
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
    """Check the order of `loader`; warn if its next epoch has no batch.

    Raises
    ------
    PipelineError
        As in `course_of`.
    """
    course = course_of(loader, loader.next_epoch)
    if not len(course):
        logger.warning(
            "the next epoch of %s has no batch: its %d samples are fewer than batch_size=%d, and"
            " drop_last=True drops an incomplete batch; reduce batch_size or pass drop_last=False",
            *(loader.dataset.path, course.samples, loader.batch_size),
        )


def length_of(loader: Any) -> int:
    """Return how many batches the next epoch of `loader` has, from its start."""
    order = loader.traversal_order
    if is_shared(order):
        return len(dealt(np.asarray(order.indices), loader))  # a shuffled order has the same length
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
            f"{what}: expected a one-dimensional array of integers, not {rows.dtype} of shape {rows.shape}"
        )
    wrong = (rows < 0) | (rows >= samples)
    if wrong.any():
        raise PipelineError(f"{what}: {rows[wrong][0]} is not a row of the file, which has {samples} samples")
    checked: IntArray = rows.astype(np.int64)
    known = np.zeros(samples, np.bool_)  # pipelines are built for the image sizes of these rows
    known[loader.indices] = True
    if not known[checked].all():
        row = checked[~known[checked]][0]
        raise PipelineError(f"{what}: row {row} is not among the loader's indices")
    return checked

"""Orders of an epoch as objects: the built-in ones, and FFCV's base class for a user's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.sampling import OrderOption, epoch_order
from ffcv_gpu.steps import IntArray

__all__ = ["TraversalOrder", "traversal"]


class TraversalOrder(ABC):
    """Base of custom orders, FFCV's protocol.

    Attributes
    ----------
    loader : Loader
    indices : int64 (n,)
        The loader's rows of the file.
    seed : int
    distributed : bool
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.indices: IntArray = loader.indices
        self.seed: int = loader.seed
        self.distributed: bool = loader.distributed

    @abstractmethod
    def sample_order(self, epoch: int) -> Sequence[int] | IntArray:
        """Return the rows of the file in the order of this epoch (this rank's share)."""


class BuiltinOrder(TraversalOrder):
    """SEQUENTIAL, RANDOM or QUASI_RANDOM, by `sampling.epoch_order`."""

    def __init__(self, loader: Any, order: OrderOption, pages: IntArray | None) -> None:
        super().__init__(loader)
        self.order = order
        self._pages = pages
        self._rank, self._world_size = loader.rank, loader.world_size

    def sample_order(self, epoch: int) -> IntArray:
        """Return this rank's share of the epoch's order, int64."""
        return epoch_order(
            self.order,
            self.indices,
            seed=self.seed,
            epoch=epoch,
            sample_pages=self._pages,
            rank=self._rank,
            world_size=self._world_size,
        )


def traversal(order: Any, loader: Any, order_kwargs: Mapping[str, Any]) -> TraversalOrder:
    """Return the order object for the Loader's argument `order`.

    Raises
    ------
    PipelineError
        If it is neither an `OrderOption` nor a `TraversalOrder` subclass.
    """
    if isinstance(order, OrderOption):
        pages = loader.dataset.beton.sample_pages() if order is OrderOption.QUASI_RANDOM else None
        return BuiltinOrder(loader, order, pages)
    if isinstance(order, type) and issubclass(order, TraversalOrder):
        return order(loader, **order_kwargs)
    raise PipelineError(f"order must be an OrderOption or a TraversalOrder subclass, not {order!r}")

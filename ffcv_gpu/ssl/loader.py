"""Loader and OrderOption as FFCV-SSL has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from ffcv_gpu import loader
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.loader.traversal import QuasiRandom, Random, Sequential, TraversalOrder
from ffcv_gpu.steps import IntArray

__all__ = ["Loader", "OrderOption", "SequentialContiguous"]


class OrderOption(Enum):
    """FFCV-SSL's orders; the numbers differ from FFCV's."""

    SEQUENTIAL = 1
    SEQUENTIAL_CONTIGUOUS = 2
    RANDOM = 3
    QUASI_RANDOM = 4


class SequentialContiguous(TraversalOrder):
    """The order of `indices`; each rank gets one contiguous part of equal length, padded by wrapping.

    Parameters
    ----------
    loader : Loader
    """

    def sample_order(self, epoch: int) -> IntArray:
        """Return this rank's rows of the file, int64."""
        rank, world_size = self.loader.rank, self.loader.world_size
        part = -(-len(self.indices) // world_size)
        own: IntArray = self.indices[np.arange(rank * part, (rank + 1) * part) % len(self.indices)]
        return own


ORDERS: Mapping[OrderOption, type[TraversalOrder]] = {
    OrderOption.SEQUENTIAL: Sequential,
    OrderOption.SEQUENTIAL_CONTIGUOUS: SequentialContiguous,
    OrderOption.RANDOM: Random,
    OrderOption.QUASI_RANDOM: QuasiRandom,
}


class Loader(loader.Loader):
    """`ffcv_gpu.Loader` with FFCV-SSL's parameters.

    Parameters
    ----------
    path : str
        The file.
    batch_size : int
    order : OrderOption
        One of this module's.
    num_workers, distributed, seed, indices, pipelines, drop_last, batches_ahead, recompile, os_cache
        As for `ffcv_gpu.Loader`.
    custom_fields : mapping of str to Field class, optional
    custom_field_mapper : mapping of str to str, optional
        Name of an output -> name of the field it comes from: several views of one image, decoded once.
    **more
        Further keyword arguments of `ffcv_gpu.Loader`.

    Raises
    ------
    PipelineError
        If an argument is invalid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        batch_size: int,
        order: OrderOption,
        num_workers: int = -1,
        distributed: bool = False,
        seed: int | None = None,
        indices: Any = None,
        pipelines: Mapping[str, Any] | None = None,
        drop_last: bool = True,
        custom_fields: Mapping[str, Any] | None = None,
        custom_field_mapper: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        given: Any = order
        if not isinstance(given, OrderOption):
            # FFCV's, or ffcv_gpu.loader's, prints like this module's
            whose = f" of {type(given).__module__}" if type(given).__name__ == "OrderOption" else ""
            raise PipelineError(f"order must be one of ffcv_gpu.ssl.OrderOption, not {given!r}{whose}")
        super().__init__(
            path,
            batch_size,
            num_workers=num_workers,
            order=ORDERS[order],
            distributed=distributed,
            seed=seed,
            indices=indices,
            pipelines=pipelines,
            drop_last=drop_last,
            custom_fields=custom_fields,
            custom_field_mapper=custom_field_mapper,
            **more,
        )

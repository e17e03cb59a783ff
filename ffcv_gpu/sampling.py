"""Which samples an epoch contains, in what order, and which of them belong to this rank.

The order of an epoch is a function of (order, indices, seed, epoch), the same on every rank; its samples
are dealt to the ranks in turn. It does not depend on batch size, worker count or earlier epochs. Splitting
it into batches is here too; the loader handles custom orders (FFCV's `TraversalOrder`).
"""

from __future__ import annotations

import os
import sys
from enum import Enum

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError

__all__ = [
    "DEFAULT_POOL_PAGES",
    "OrderOption",
    "batches",
    "deal",
    "distributed_env",
    "epoch_order",
    "num_batches",
    "quasi_random",
]

IntArray = npt.NDArray[np.int64]

#: pages open at once in QUASI_RANDOM: 512 MiB of 8 MiB pages, which mix about 5000 images of 110 kB
DEFAULT_POOL_PAGES = 64


class OrderOption(Enum):
    """The order of the samples in an epoch; members and numbers are FFCV's.

    ``SEQUENTIAL``: the order of `indices`. ``RANDOM``: a full shuffle. ``QUASI_RANDOM``: shuffled within a
    moving pool of pages, so that each page is read once and `pool_pages * page_size` bytes suffice.
    """

    SEQUENTIAL = 1
    RANDOM = 2
    QUASI_RANDOM = 3


def epoch_order(
    order: OrderOption,
    indices: npt.ArrayLike,
    *,
    seed: int,
    epoch: int,
    sample_pages: IntArray | None = None,
    pool_pages: int = DEFAULT_POOL_PAGES,
) -> IntArray:
    """Return the sample ids of `epoch` in the order of all ranks, which `deal` divides among them.

    Parameters
    ----------
    order : OrderOption
        RANDOM is ``numpy.random.default_rng(seed + epoch).permutation(indices)``, which is FFCV's order
        in a single process; QUASI_RANDOM is `quasi_random`.
    indices : int, shape (N,)
        Sample ids, positions in the file; not changed.
    seed, epoch : int
        >= 0.
    sample_pages : ndarray of int64, shape (samples of the file,), optional
        Page of each sample's payloads, -1 for none; only QUASI_RANDOM needs it.
    pool_pages : int
        See `quasi_random`.

    Returns
    -------
    ndarray of int64, shape (N,)
        Newly allocated.

    Raises
    ------
    PipelineError
        If an argument is out of range, or QUASI_RANDOM is requested for a file without pages.
    """
    ids = _as_ids(indices)
    _check_counter(seed, epoch)
    if order is OrderOption.SEQUENTIAL:
        return ids.copy()
    if order is OrderOption.RANDOM:
        return np.random.default_rng(seed + epoch).permutation(ids)
    if order is OrderOption.QUASI_RANDOM:
        return quasi_random(ids, sample_pages, seed, epoch, pool_pages=pool_pages)
    raise PipelineError(f"order must be a member of OrderOption, not {order!r}")


def quasi_random(
    indices: npt.ArrayLike,
    sample_pages: IntArray | None,
    seed: int,
    epoch: int,
    *,
    pool_pages: int = DEFAULT_POOL_PAGES,
) -> IntArray:
    """Return `indices` shuffled within a pool of `pool_pages` pages that moves through the shuffled pages.

    Page number i of the shuffled pages is open from time i - pool_pages + 1 to i + 1, clipped to the epoch's
    start and end. Each of its samples gets a time uniform in that span, and samples are sorted by time. So at
    most `pool_pages` pages are open, one page closes and one opens at a time, and a file with no more pages
    than the pool is shuffled uniformly. Samples without a payload may come at any time.

    Parameters
    ----------
    indices : int, shape (N,)
        Sample ids; not changed.
    sample_pages : ndarray of int64, shape (samples of the file,)
        Page of each sample's payloads, -1 for a sample without any.
    seed, epoch : int
        >= 0. Together with the other arguments they fully determine the order.
    pool_pages : int
        Pages open at once, >= 1. A reader that keeps them holds ``pool_pages * page_size`` bytes.

    Returns
    -------
    ndarray of int64, shape (N,)
        Newly allocated; each entry of `indices` exactly once.

    Raises
    ------
    PipelineError
        If no sample has a page: their values then lie in the metadata, and RANDOM costs nothing extra.
    """
    ids = _as_ids(indices)
    _check_counter(seed, epoch)
    if pool_pages < 1:
        raise PipelineError(f"QUASI_RANDOM: pool_pages must be >= 1, not {pool_pages}")
    if not len(ids):
        return ids.copy()
    pages = None if sample_pages is None else sample_pages[ids]
    if pages is None or pages.max() < 0:
        raise PipelineError(
            "QUASI_RANDOM: no sample has a payload, so there is nothing to read page by page; "
            "use OrderOption.RANDOM"
        )
    rng = np.random.default_rng([seed, epoch])
    opens, closes = _lifetimes(pages, pool_pages, rng)
    times = rng.random(len(ids)) * (closes - opens) + opens
    return ids[np.argsort(times, kind="stable")]


def deal(order: IntArray, rank: int, world_size: int) -> IntArray:
    """Return entries rank, rank + world_size, ... of `order` padded by wrapping to equal lengths.

    At most world_size - 1 ids occur twice.

    Parameters
    ----------
    order : ndarray of int64, shape (N,)
        The global order, the same on all ranks.
    rank, world_size : int
        0 <= rank < world_size.

    Returns
    -------
    ndarray of int64, shape (ceil(N / world_size),)
        `order` itself if `world_size` is 1, else newly allocated.

    Raises
    ------
    PipelineError
        If `rank` or `world_size` is out of range.
    """
    if not 0 <= rank < world_size:
        raise PipelineError(f"rank must be in [0, world_size), got rank {rank}, world_size {world_size}")
    if world_size == 1 or not len(order):
        return order
    each = -(-len(order) // world_size)
    return order[np.arange(rank, each * world_size, world_size) % len(order)]


def num_batches(samples: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches for `samples` samples; raise `PipelineError` if `batch_size` < 1."""
    if batch_size < 1:
        raise PipelineError(f"batch_size must be >= 1, not {batch_size}")
    return samples // batch_size if drop_last else -(-samples // batch_size)


def batches(order: IntArray, batch_size: int, drop_last: bool) -> list[IntArray]:
    """Return `order` split into batches, which are views of it; the last may be shorter unless dropped."""
    count = num_batches(len(order), batch_size, drop_last)
    return [order[start : start + batch_size] for start in range(0, count * batch_size, batch_size)]


def distributed_env() -> tuple[int, int]:
    """Return (rank, world_size) of this process.

    An initialised ``torch.distributed`` comes first (it is never imported here: a program that uses it has
    done so), then the environment variables ``RANK`` and ``WORLD_SIZE``, which torchrun and most launchers
    set.

    Raises
    ------
    PipelineError
        If neither is available, or the variables are invalid.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank()), int(distributed.get_world_size())
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world_size is None:
        raise PipelineError(
            "distributed=True, but torch.distributed is not initialised and RANK and WORLD_SIZE are not "
            "set; call torch.distributed.init_process_group() before creating the Loader, or set them"
        )
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise PipelineError(
            f"RANK={rank!r} and WORLD_SIZE={world_size!r} must be whole numbers, 0 <= RANK < WORLD_SIZE"
        )
    return int(rank), int(world_size)


def _as_ids(indices: npt.ArrayLike) -> IntArray:
    ids = np.asarray(indices)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise PipelineError(f"indices must be 1-D whole numbers, not {ids.dtype} of shape {ids.shape}")
    return ids.astype(np.int64, copy=False)


def _check_counter(seed: int, epoch: int) -> None:
    if seed < 0 or epoch < 0:
        raise PipelineError(f"seed and epoch must be >= 0, got seed {seed}, epoch {epoch}")


def _lifetimes(pages: IntArray, pool_pages: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Return when each sample's page opens and closes, (N,) each, counted in pages closed so far."""
    used, page_index = np.unique(pages, return_inverse=True)
    has_none = int(used[0] < 0)
    place = np.empty(len(used), dtype=np.int64)
    place[has_none:] = rng.permutation(len(used) - has_none)
    end = max(len(used) - has_none - pool_pages + 1, 1)
    opens = np.maximum(place - pool_pages + 1, 0)
    closes = np.minimum(place + 1, end)
    if has_none:
        opens[0], closes[0] = 0, end
    return opens[page_index], closes[page_index]

"""Which blocks are fetched next: those that a reader waits for, and those that an epoch will read."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.readers.base import EpochRanges
from ffcv_gpu.readers.remote.mirror import BLOCK_BYTES
from ffcv_gpu.steps import IntArray

__all__ = ["AHEAD_BLOCKS", "Plan", "Source", "Urgent", "blocks_of", "plan_blocks"]

#: blocks that are fetched ahead of the current batch: enough to keep all connections busy, few enough for an
#: epoch that is left early not to fetch much in vain
AHEAD_BLOCKS = 512


def blocks_of(offsets: IntArray, lengths: IntArray) -> IntArray:
    """Return the blocks that contain the ranges, ascending, without duplicates; int64 (n,)."""
    return np.unique(_spread(offsets, lengths)[0])


def _spread(offsets: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
    """Return the blocks of each range one after another, and for each block the index of its range."""
    rows = np.flatnonzero(lengths > 0)
    firsts = offsets[rows] // BLOCK_BYTES
    counts = (offsets[rows] + lengths[rows] - 1) // BLOCK_BYTES - firsts + 1
    begins = np.cumsum(counts) - counts
    blocks = np.arange(int(counts.sum())) - np.repeat(begins - firsts, counts)
    return blocks, np.repeat(rows, counts)


class Source(Protocol):
    """A sequence of blocks to fetch."""

    def peek(self) -> int | None:
        """Return the next block; None if there is none at present."""

    def advance(self) -> None:
        """Remove the next block."""


class Urgent:
    """Blocks that a reader waits for, without duplicates, first come, first served."""

    def __init__(self) -> None:
        self._blocks: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, block: int) -> None:
        """Add a block."""
        self._blocks[block] = None

    def peek(self) -> int | None:
        """Return the block that was added first; None if there is none."""
        return next(iter(self._blocks), None)

    def advance(self) -> None:
        """Remove it, unless the end of a garbage-collected epoch has cleared all since `peek`."""
        if self._blocks:
            del self._blocks[next(iter(self._blocks))]

    def clear(self) -> None:
        """Remove all."""
        self._blocks.clear()


class Plan:
    """The blocks of an epoch in the order of their first use, up to a limit that moves with the batches.

    Parameters
    ----------
    blocks : int64 (n,)
    ends : int64 (batches,)
        Number of blocks whose first use is in this batch or an earlier one.
    ahead : int
        How many blocks the limit is ahead of those of a batch.

    Attributes
    ----------
    begun : bool
        Whether fetching has begun; also True if it was given up before.
    """

    def __init__(self, blocks: IntArray, ends: IntArray, ahead: int = AHEAD_BLOCKS) -> None:
        self.blocks, self._ends, self._ahead, self.begun = blocks, ends, ahead, False
        self._at = self._limit = 0

    def ask(self, batch: int) -> bool:
        """Move the limit to `ahead` past the blocks of `batch`; return whether it moved."""
        limit = min(int(self._ends[batch]) + self._ahead, self.blocks.size)
        farther = limit > self._limit
        self._limit = max(limit, self._limit)
        return farther

    def peek(self) -> int | None:
        """Return the next block; None at the limit and at the end."""
        return int(self.blocks[self._at]) if self._at < self._limit else None

    def advance(self) -> None:
        """Remove the next block."""
        self._at += 1

    @property
    def done(self) -> bool:
        """True once there are no more blocks."""
        return self._at >= self.blocks.size


def plan_blocks(ranges: EpochRanges, absent: npt.NDArray[np.bool_], ahead: int = AHEAD_BLOCKS) -> Plan:
    """Return the plan of an epoch; within a batch blocks ascend, so that one request fetches neighbours.

    Parameters
    ----------
    ranges : EpochRanges
    absent : bool (blocks,)
        Which blocks of the file must be fetched; the plan contains no others.
    ahead : int
        See `Plan`.
    """
    count = len(ranges.batches)
    if not absent.any():
        return Plan(np.zeros(0, np.int64), np.zeros(count, np.int64))
    ids, batches = ranges.flat()
    pairs = [np.zeros((2, 0), np.int64)]
    for offsets, lengths in ranges.fields:
        blocks, rows = _spread(offsets[ids], lengths[ids])
        needed = np.flatnonzero(absent[blocks])
        pairs.append(np.stack([blocks[needed], batches[rows[needed]]]))
    blocks, firsts = np.concatenate(pairs, axis=1)
    order = np.lexsort((firsts, blocks))
    blocks, firsts = blocks[order], firsts[order]
    new = np.diff(blocks, prepend=-1) > 0
    blocks, firsts = blocks[new], firsts[new]
    order = np.lexsort((blocks, firsts))
    return Plan(blocks[order], np.searchsorted(firsts[order], np.arange(count), side="right"), ahead)

"""The course of one epoch: which samples form each batch on this rank, and how far the epoch has got."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ffcv_gpu.sampling import batches, num_batches
from ffcv_gpu.steps import IntArray

__all__ = ["Course", "GivenBatches", "Progress"]


@dataclass(frozen=True, eq=False)
class Course:
    """An epoch from position `done` of its order onwards, dealt round-robin to the ranks.

    Positions refer to the order that all ranks share, so that `done` means the same for any batch size and
    number of ranks. Rank r gets positions done + r, done + r + world_size, ...; the end is padded by wrapping
    around. For ``done=0`` this equals `sampling.deal`.

    Attributes
    ----------
    order : int64 (N,)
        Rows of the file, for all ranks; of a custom order only this rank's, with `world_size` 1.
    batch_size : int
    drop_last : bool
    rank, world_size : int
    done : int
        Positions already delivered, by any number of ranks.
    """

    order: IntArray
    batch_size: int
    drop_last: bool
    rank: int = 0
    world_size: int = 1
    done: int = 0

    @property
    def samples(self) -> int:
        """Samples left for this rank, including those of a dropped last batch."""
        return -(-(self.order.size - self.done) // self.world_size)

    def __len__(self) -> int:
        """Batches from `done` onwards."""
        return num_batches(self.samples, self.batch_size, self.drop_last)

    def positions(self, index: int, count: int = 1) -> IntArray:
        """Return the positions in `order` of the samples of `count` batches from `index` on.

        `index` counts from `done`.
        """
        first = index * self.batch_size
        return self._dealt(first, min(first + count * self.batch_size, self.samples))

    def edges(self, index: int, count: int) -> list[int]:
        """Return where each of these batches begins in `positions`, and where the last one ends."""
        left = self.samples - index * self.batch_size
        return [min(number * self.batch_size, left) for number in range(count + 1)]

    def _dealt(self, first: int, last: int) -> IntArray:
        if self.world_size == 1 and self.done + last <= self.order.size:
            return np.arange(self.done + first, self.done + last, dtype=np.int64)
        mine = np.arange(first, last, dtype=np.int64)
        return (self.done + self.rank + mine * self.world_size) % self.order.size

    def batches(self) -> list[IntArray]:
        """Return the rows of the file of each batch, int64; bad samples may be replaced later."""
        alone = self.world_size == 1
        mine = self.order[self.done :] if alone else self.order[self._dealt(0, self.samples)]
        return batches(mine, self.batch_size, self.drop_last)

    def bundles(self, size: int) -> list[IntArray]:
        """Return the rows of the file of each `size` batches, int64."""
        if size == 1:
            return self.batches()
        ends = range(0, len(self), size)
        return [self.order[self.positions(first, min(size, len(self) - first))] for first in ends]

    def done_after(self, batches: int) -> int:
        """Return how many positions are done once every rank has delivered `batches` batches."""
        return min(self.done + batches * self.batch_size * self.world_size, self.order.size)


@dataclass(frozen=True, eq=False)
class GivenBatches(Course):
    """An epoch over explicit batches, which may differ in size.

    Attributes
    ----------
    bounds : int64 (len(self) + 1,)
        Batch k is ``order[bounds[k]:bounds[k + 1]]``.
    """

    bounds: IntArray = field(default_factory=lambda: np.zeros(1, np.int64))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def positions(self, index: int, count: int = 1) -> IntArray:
        """Return the positions in `order` of the samples of `count` batches from `index` on."""
        return np.arange(self.bounds[index], self.bounds[index + count])

    def edges(self, index: int, count: int) -> list[int]:
        """Return where each of these batches begins in `positions`, and where the last one ends."""
        edges: list[int] = (self.bounds[index : index + count + 1] - self.bounds[index]).tolist()
        return edges

    def batches(self) -> list[IntArray]:
        """Return the batches, int64 each."""
        return [self.order[start:end] for start, end in pairwise(self.bounds)]

    def done_after(self, batches: int) -> int:
        """Return the number of samples in the first `batches` batches."""
        return int(self.bounds[batches])


@dataclass
class Progress:
    """How far an epoch has got: `handed` batches were handed to the consumer."""

    epoch: int
    course: Course
    handed: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """The epoch to resume, and how many positions of it are done."""
        if self.handed >= len(self.course):
            return self.epoch + 1, 0
        return self.epoch, self.course.done_after(self.handed)

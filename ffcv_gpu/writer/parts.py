"""What the writer's processes exchange: the job, the same for all, and parts of the file."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import Skipped
from ffcv_gpu.writer.report import Tally
from ffcv_gpu.writer.shards import Shard

__all__ = ["ENTRY", "PART_BYTES", "PART_SAMPLES", "VIRTUAL", "Job", "Part"]

#: A part ends at this many payload bytes, or with its range. Small enough to be still in the L2 cache when it
#: is written to the file.
PART_BYTES = 1 << 21
#: ... or at this many samples.
PART_SAMPLES = 1024
#: What `malloc` adds to an offset in the slot: the file offset is known only after all earlier samples, so
#: the builder replaces these values. No file is that long.
VIRTUAL = 1 << 62
#: One allocation: sample within the part, field number, offset in the slot, size in bytes, CRC32C
ENTRY = np.dtype([("sample", "<u4"), ("field", "<u2"), ("offset", "<u8"), ("size", "<u8"), ("crc", "<u4")])


@dataclass(frozen=True)
class Job:
    """What to write; the same in every process."""

    #: where the samples come from, in messages
    who: ClassVar[str] = "the dataset"
    #: what `indices` refer to, in messages
    things: ClassVar[str] = "samples"

    dataset: Any
    #: indices into the dataset, by position in the file; for a shard, in the merged file
    indices: npt.NDArray[Any]
    fields: Mapping[str, Field]
    record: np.dtype[Any]
    page_size: int
    #: leave out samples that cannot be stored
    skips: bool = False
    #: source id of each position
    sources: Sequence[str] | None = None
    #: which part of `indices` to write; None: all
    shard: Shard | None = None

    @property
    def span(self) -> range:
        """Positions in `indices` to write."""
        total = len(self.indices)
        return range(total) if self.shard is None else self.shard.span(total, self.things)

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot: an almost full part, and one more sample."""
        return PART_BYTES + self.page_size

    def key(self, position: int) -> Any:
        """Return the index into the dataset, as a plain Python object."""
        key = self.indices[position]
        return key.item() if isinstance(key, np.generic) else key

    def where(self, position: int) -> str:
        """Return how messages name a sample."""
        source = "" if self.sources is None else f", {self.sources[position]}"
        return f"sample {position} (dataset[{self.key(position)!r}]{source})"

    def turns(self, start: int, stop: int) -> Generator[Hashable | None, Part]:
        """Yield the turn of each part in file order, then None; the caller sends each part back."""
        while start < stop:
            part = yield start
            start = part.stop
        yield None


@dataclass(frozen=True)
class Part:
    """Consecutive samples, encoded. Arrays are bytes, as they are sent through a pipe.

    Attributes
    ----------
    start, stop : int
        Positions in `Job.indices`.
    count : int
        Number of samples; fewer than positions if some were skipped.
    slot : int
        Number of the slot that holds the payloads.
    bounds : int64 (count + 1,)
        Sample k's payloads are bytes bounds[k] to bounds[k + 1] of the slot.
    records : (count,) of the file's record, pointers `VIRTUAL`
    entries : (allocations,) `ENTRY`
    facts : by field number, (count,) `JPEG_FACTS`
    tally : Tally
    skipped : tuple of Skipped
    """

    start: int
    stop: int
    count: int
    slot: int
    bounds: bytes
    records: bytes
    entries: bytes
    facts: Mapping[int, bytes]
    tally: Tally
    skipped: tuple[Skipped, ...] = ()

    @property
    def turn(self) -> Hashable:
        """What `Job.turns` calls it."""
        return self.start

    def ends(self, stop: int) -> bool:
        """Whether it is the last part of its worker's range, which ends at `stop`."""
        return self.stop == stop

    def positions(self) -> npt.NDArray[np.int64]:
        """Return the position of each sample of the part, int64 (count,)."""
        return np.setdiff1d(np.arange(self.start, self.stop), [skip.position for skip in self.skipped])

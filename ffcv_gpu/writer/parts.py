"""What travels between the writer's processes: the job, the same for all, and parts of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import Skipped
from ffcv_gpu.writer.report import Tally
from ffcv_gpu.writer.shards import Shard

__all__ = ["ENTRY", "PART_BYTES", "PART_SAMPLES", "VIRTUAL", "Job", "Part"]

#: A part ends at this many payload bytes, or with its chunk. Small enough to be in the second-level cache
#: still when it is written to the file.
PART_BYTES = 1 << 21
#: ... or at this many samples.
PART_SAMPLES = 1024
#: What `malloc` adds to a place in the slot: the place in the file is known only when all samples before
#: it are, so these values are replaced by the builder. No file is as long.
VIRTUAL = 1 << 62
#: One allocation: sample of the part, field, place in the slot, bytes, CRC32C of them
ENTRY = np.dtype([("sample", "<u4"), ("field", "<u2"), ("offset", "<u8"), ("size", "<u8"), ("crc", "<u4")])


@dataclass(frozen=True)
class Job:
    """What is to be written; the same in every process."""

    #: who gave the samples, in messages
    who: ClassVar[str] = "the dataset"
    #: what `indices` are of, in messages
    things: ClassVar[str] = "samples"

    dataset: Any
    #: of the dataset, by position in the file, or in that of all shards
    indices: npt.NDArray[Any]
    fields: Mapping[str, Field]
    record: np.dtype[Any]
    page_size: int
    #: leave a sample out that cannot be stored
    skips: bool = False
    #: source id of each position, for messages
    sources: Sequence[str] | None = None
    #: which part of `indices` is to be written; None: all
    shard: Shard | None = None

    @property
    def span(self) -> range:
        """Positions in `indices` that are to be written."""
        total = len(self.indices)
        return range(total) if self.shard is None else self.shard.span(total, self.things)

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot: a part that is nearly full, and one more sample."""
        return PART_BYTES + self.page_size

    def source(self, position: int) -> str:
        """Return ", " and the source id, if there are any: to be put behind the dataset's key."""
        return "" if self.sources is None else f", {self.sources[position]}"

    def key(self, position: int) -> Any:
        """Return what the dataset is asked for, as a plain Python object."""
        key = self.indices[position]
        return key.item() if isinstance(key, np.generic) else key

    def where(self, position: int) -> str:
        """Return a sample's name in messages."""
        return f"sample {position} (dataset[{self.key(position)!r}]{self.source(position)})"


@dataclass(frozen=True)
class Part:
    """Consecutive samples, encoded. Arrays as bytes: they travel through a pipe.

    Attributes
    ----------
    start, stop : int
        Positions in `Job.indices`.
    count : int
        Samples; fewer than positions where some were skipped.
    slot : int
        Where the payloads lie.
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

    def positions(self) -> npt.NDArray[np.int64]:
        """Position of each sample of the part, int64 (count,)."""
        return np.setdiff1d(np.arange(self.start, self.stop), [skip.position for skip in self.skipped])

"""Encodes samples from streams (tar files, iterables) of unknown length, in parallel but in a fixed order.

A stream is read once, from start to end, by one process. Streams are dealt to `LANES` lanes, and parts are
taken from the lanes in turn, so that all processes are busy and the file still does not depend on how many
there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.fields.target import OpenField
from ffcv_gpu.format import Skipped
from ffcv_gpu.writer.encoder import SampleEncoder, Slots
from ffcv_gpu.writer.parts import PART_BYTES, PART_SAMPLES, Job, Part

__all__ = [
    "LANES",
    "IterableJob",
    "StreamEncoder",
    "StreamJob",
    "StreamPart",
    "check_iterables",
    "encoder_of",
    "numbered_samples",
]

#: Number of streams open at once, and so the largest useful number of processes.
LANES = 16
#: bits of a sample's number within its stream; with the stream's number above them, it keys "proportion"
_SAMPLE_BITS = 28


@dataclass(frozen=True)
class StreamJob(Job):
    """A job whose `indices` are the names of streams, in order.

    ``dataset(name)`` returns an iterator of (key, values).
    """

    who: ClassVar[str] = "the pipeline"
    things: ClassVar[str] = "tar files"
    #: a stream, in messages
    stream: ClassVar[str] = "shard"

    workers: int = 1

    @property
    def lanes(self) -> int:
        """Number of streams that are open at once."""
        return min(LANES, len(self.span))

    def where(self, position: int) -> str:
        """Return how messages name a sample; `position` packs stream and sample number."""
        stream, sample = divmod(position, 1 << _SAMPLE_BITS)
        return f"{self.stream} {self.key(stream)!r}, sample number {sample}"

    def turns(self, start: int, stop: int) -> Generator[Hashable | None, Part]:
        """Yield the (lane, part number) whose turn it is, then None; the caller sends each part back."""
        lanes = deque((lane, 0) for lane in range(self.lanes))
        while lanes:
            lane, number = lanes.popleft()
            part = yield lane, number
            assert isinstance(part, StreamPart)
            if not part.ends_lane:
                lanes.append((lane, number + 1))
        yield None


class IterableJob(StreamJob):
    """A job whose streams are iterables, by number; the keys are the numbers of the samples."""

    who: ClassVar[str] = "the iterable"
    things: ClassVar[str] = "iterables"
    stream: ClassVar[str] = "iterable"


@dataclass(frozen=True, kw_only=True)
class StreamPart(Part):
    """Samples `start` to `stop` of one stream; may be empty.

    Attributes
    ----------
    stream, lane : int
    number : int
        Of the part within its lane.
    ends_lane, ends_worker : bool
        No part of this lane, or of this process, follows.
    """

    stream: int
    lane: int
    number: int
    ends_lane: bool
    ends_worker: bool

    @property
    def turn(self) -> Hashable:
        """What `StreamJob.turns` calls it."""
        return self.lane, self.number

    def ends(self, stop: int) -> bool:
        """Whether it is the last part of its process; `stop` is not used."""
        return self.ends_worker


class _Lane:
    """Every `LANES`-th stream, one after another."""

    def __init__(self, job: StreamJob, lane: int) -> None:
        self._job, self.lane, self.parts = job, lane, 0
        self._streams = iter(job.span[lane :: job.lanes])
        self.ended = False
        self._open()

    def _open(self) -> None:
        stream = next(self._streams, None)
        self.ended = stream is None
        if stream is not None:
            self.stream, self.start = stream, 0
            self._samples: Iterator[tuple[str | int, Any]] | None = None

    def next(self) -> tuple[str | int, Any] | None:
        """Return the next (key, values); None once at the end of each stream, before the next one starts."""
        if self._samples is None:
            self._samples = iter(self._job.dataset(self._job.key(self.stream)))
        found = next(self._samples, None)
        if found is None:
            self._open()
        return found


class StreamEncoder(SampleEncoder):
    """Encodes the streams of one process."""

    _job: StreamJob
    _key: str | int | None = None

    def parts(
        self, start: int, stop: int, slots: Slots, free_slot: Callable[[], int]
    ) -> Iterator[StreamPart]:
        """Yield the parts of the lanes of process number `start`, in turn; `stop` is not used."""
        lanes = deque(_Lane(self._job, n) for n in range(start, self._job.lanes, self._job.workers))
        while lanes:
            lane = lanes.popleft()
            slot = free_slot()
            yield self._next_part(lane, slots[slot], slot, alone=not lanes)
            if not lane.ended:
                lanes.append(lane)

    def _next_part(self, lane: _Lane, memory: npt.NDArray[np.uint8], slot: int, *, alone: bool) -> StreamPart:
        self._begin(PART_SAMPLES, memory)
        stream, first = lane.stream, lane.start
        position = first
        while position - first < PART_SAMPLES and self._used < PART_BYTES:
            self._position = stream << _SAMPLE_BITS | position
            self._field, self._sample_start, self._key = -1, self._used, None
            self._tick(self._position)
            try:
                found = lane.next()
                if found is None:
                    break
                self._key, sample = found
                self._store(sample)
            except Exception as error:  # noqa: BLE001 (raised again, unless the job skips such samples)
                self._blame(error)
            position += 1
            lane.start = position
        part = self._part(first, position, slot)
        number, ended, lane.parts = lane.parts, lane.ended, lane.parts + 1
        return StreamPart(**vars(part), stream=stream, lane=lane.lane, number=number, ends_lane=ended,
                          ends_worker=ended and alone)  # fmt: skip

    def _where(self) -> str:
        stream = self._position >> _SAMPLE_BITS
        return f"{self._job.stream} {self._job.key(stream)!r}, sample {self._key!r}"

    def _skip(self, why: str) -> Skipped:
        stream, sample = divmod(self._position, 1 << _SAMPLE_BITS)
        field = f", field {self._names[self._field]!r}" if self._field >= 0 else ""
        return Skipped(sample, self._key, f"{self._job.stream} {self._job.key(stream)!r}{field}: {why}")

    def _blame(self, error: Exception) -> None:
        """Skip the sample, or raise; errors from reading a stream name the sample themselves."""
        if self._key is not None:
            super()._blame(error)
        elif isinstance(error, SampleError):
            raise error
        else:
            raise SampleError(f"{self._job.where(self._position)}: reading raised {error!r}") from error


def check_iterables(iterables: Sequence[Any], fields: Mapping[str, Field]) -> None:
    """Raise `PipelineError` unless all are iterable, and more than once if a field is settled by samples."""
    if not iterables:
        raise PipelineError("from_iterable: give at least one iterable of samples")
    seen: set[int] = set()
    looked_at = any(isinstance(field, OpenField) and field.is_open for field in fields.values())
    for number, samples in enumerate(iterables):
        if not isinstance(samples, Iterable):
            raise PipelineError(
                f"from_iterable: argument {number} is not iterable, but of type {type(samples).__name__}"
            )
        if isinstance(samples, Iterator) and id(samples) in seen:
            raise PipelineError(
                f"from_iterable: argument {number} is an iterator that was given before: each process would"
                " read its own copy of it, and write the same samples again; give it once"
            )
        seen.add(id(samples))
        if looked_at and isinstance(samples, Iterator):
            raise PipelineError(
                f"from_iterable: argument {number} can be read only once, but a target is settled by reading"
                " some samples first; give an object whose __iter__ starts anew, or settings instead of the"
                " target"
            )


def numbered_samples(iterables: Sequence[Iterable[Any]], number: int) -> Iterator[tuple[int, Any]]:
    """Return (position, sample) for each sample of one of the iterables."""
    return enumerate(iterables[number])


def encoder_of(job: Job, tick: Callable[[int], object]) -> SampleEncoder:
    """Return the encoder of a job's samples, for one process."""
    return StreamEncoder(job, tick) if isinstance(job, StreamJob) else SampleEncoder(job, tick)

"""Settles fields with a target before writing, by examining some samples in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.fields.target import OpenField
from ffcv_gpu.writer.encoder import SampleEncoder
from ffcv_gpu.writer.parts import Job
from ffcv_gpu.writer.streams import StreamEncoder, StreamJob

__all__ = ["refuse_open", "settled_job", "settlements"]

#: samples to examine: MOST, or from LEAST on as soon as their payloads have ENOUGH_BYTES
MOST, LEAST, ENOUGH_BYTES = 256, 16, 8 << 20

AnyJob = TypeVar("AnyJob", bound=Job)


def settled_job(job: AnyJob, noted_before: Callable[[], Mapping[str, Any]]) -> AnyJob:
    """Return the job with all open fields settled.

    Parameters
    ----------
    job : Job
    noted_before : callable
        Returns class and settings of each field as an earlier run recorded them; its choices are kept.

    Raises
    ------
    SampleError
        If a sample cannot be stored, as when writing it.
    PipelineError
        If a target cannot be reached.
    """
    if not _open(job.fields):
        return job
    before = noted_before()
    fields = {name: _as_before(field, before.get(name, {})) for name, field in job.fields.items()}
    still = _open(fields)
    if still:
        trials = {name: field.trial() for name, field in still.items()}
        seen = _look(replace(job, fields={**fields, **trials}))
        samples = None if isinstance(job, StreamJob) else len(job.indices)
        names = list(fields)
        for name, field in still.items():
            fields[name] = field.settled([values[names.index(name)] for values in seen], samples)
    return replace(job, fields=fields)


def refuse_open(fields: Mapping[str, Field]) -> None:
    """Raise `PipelineError` if a field is open: several machines would settle it differently."""
    for name in _open(fields):
        raise PipelineError(
            f"field {name!r}: each machine would settle the target by its own measurements; write some"
            " samples without shard=, and give the settings chosen for them instead of the target"
        )


def settlements(fields: Mapping[str, Field]) -> dict[str, str]:
    """Return in words what was chosen for each field."""
    found = {name: field.settlement for name, field in fields.items() if isinstance(field, OpenField)}
    return {name: words for name, words in found.items() if words is not None}


def _open(fields: Mapping[str, Field]) -> dict[str, OpenField]:
    return {name: field for name, field in fields.items() if isinstance(field, OpenField) and field.is_open}


def _as_before(field: Field, noted: Mapping[str, Any]) -> Field:
    if not isinstance(field, OpenField) or not field.is_open:
        return field
    known = noted.get("class") == type(field).__name__
    return (field.as_before(noted.get("settings", {})) if known else None) or field


class _Looking(SampleEncoder):
    """Collects the values of the samples that can be stored."""

    def __init__(self, job: Job, tick: Callable[[int], object] = abs) -> None:
        super().__init__(job, tick)
        self.seen: list[Sequence[Any]] = []
        self.bytes = 0

    def _store(self, sample: Any) -> None:
        super()._store(sample)
        self.seen.append(list(self._values(sample)))
        self.bytes += self._bounds[-1] - self._bounds[-2]

    @property
    def has_enough(self) -> bool:
        return len(self.seen) >= MOST or (len(self.seen) >= LEAST and self.bytes >= ENOUGH_BYTES)


class _LookingAtStreams(_Looking, StreamEncoder):
    """The same for streams, from the first sample on."""


def _look(job: Job) -> list[Sequence[Any]]:
    """Return the values of some samples, spread over the dataset; for streams, of the first ones."""
    memory = np.empty(job.slot_bytes, np.uint8)
    if isinstance(job, StreamJob):
        encoder: _Looking = _LookingAtStreams(replace(job, workers=1))
        steps: Iterator[Any] = encoder.parts(0, 0, [memory], lambda: 0)
    else:
        encoder = _Looking(job)
        steps = (encoder.encode(position, position + 1, memory) for position in _spread(len(job.indices)))
    for _ in steps:
        if encoder.has_enough:
            break
    if not encoder.seen:
        raise SampleError("nothing to write: none of the samples examined for the target can be stored")
    return encoder.seen[:MOST]


def _spread(total: int) -> list[int]:
    """Return positions spread over the dataset, in random order, so that the first ones are spread too."""
    positions = np.unique(np.linspace(0, total - 1, min(total, MOST)).astype(np.int64))
    order: list[int] = np.random.default_rng(0).permutation(positions).tolist()
    return order

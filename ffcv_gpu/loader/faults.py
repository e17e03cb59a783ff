"""Faults of stored samples, and their messages: file, sample, field, offset and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.errors import DecodeError, FfcvGpuError, ReadError
from ffcv_gpu.jpeg.base import Decoded
from ffcv_gpu.plan import BatchPlan, ImagePayloads
from ffcv_gpu.steps import IntArray

__all__ = ["CHECKSUM", "DECODE", "READ", "Fault", "bad_checksum", "bad_jpegs", "during", "unreadable"]

#: kinds of fault, as `Loader.stats` counts them and `Loader.bad_samples` names them
CHECKSUM, DECODE, READ = "checksum", "decode", "read"

DAMAGED = "the file was damaged after it was written; restore it from a copy, or write it again"
CHANGED = (
    "the file has been changed since it was opened; to change a file in use, write a new one and rename it "
    "to this name"
)


@dataclass(frozen=True)
class Fault:
    """One unusable payload: `row` in its batch, `kind` of fault, and the error to raise."""

    row: int
    kind: str
    error: FfcvGpuError

    @property
    def sample(self) -> int:
        """Row of the dataset."""
        assert self.error.sample is not None
        return self.error.sample

    @property
    def field(self) -> str:
        """The field's name."""
        assert self.error.field is not None
        return self.error.field


def place(dataset: Dataset, plan: BatchPlan, field: str, row: int, *, copy: bool = False) -> str:
    """Return the location of the payload of row `row` of a batch, as text.

    `copy`: for a remote file, also name its local copy.
    """
    payloads, sample = plan.payloads[field], int(plan.sample_ids[row])
    file = dataset.file_of(sample)
    return (
        f"{dataset.name_of(sample, copy=copy)}, field {field!r}: payload of {payloads.lengths[row]} bytes "
        f"at byte {payloads.offsets[row] - file.base}"
    )


def located(error: FfcvGpuError, dataset: Dataset, plan: BatchPlan, field: str, row: int) -> FfcvGpuError:
    """Return `error` with sample, field and offset (in the sample's file) as attributes."""
    error.sample, error.field = int(plan.sample_ids[row]), field
    error.offset = int(plan.payloads[field].offsets[row]) - dataset.file_of(error.sample).base
    return error


def bad_checksum(dataset: Dataset, plan: BatchPlan, field: str, row: int) -> Fault:
    """Return the fault of a payload that does not match its checksum."""
    why = CHANGED if dataset.file_of(int(plan.sample_ids[row])).changed() else DAMAGED
    where = place(dataset, plan, field, row, copy=True)
    error = ReadError(f"{where} does not match its checksum: {why}")
    return Fault(row, CHECKSUM, located(error, dataset, plan, field, row))


def unreadable(dataset: Dataset, plan: BatchPlan, field: str, row: int, cause: ReadError) -> Fault:
    """Return the fault of a payload that cannot be read."""
    error = ReadError(f"{place(dataset, plan, field, row)} cannot be read: {cause}")
    error.__cause__ = cause
    return Fault(row, READ, located(error, dataset, plan, field, row))


def bad_jpegs(
    dataset: Dataset, plan: BatchPlan, field: str, rows: IntArray, outcome: Decoded, who: str
) -> list[Fault]:
    """Return the faults of the images in `outcome` that could not be decoded; image i is row ``rows[i]``."""
    images, faults = plan.payloads[field], []
    assert isinstance(images, ImagePayloads)
    for i in np.flatnonzero(outcome.status).tolist():
        row, reason = int(rows[i]), outcome.reasons.get(i, "no reason given")
        what = f"a JPEG of {images.widths[row]} x {images.heights[row]} pixels"
        error = DecodeError(
            f"{place(dataset, plan, field, row)}: {what} that {who} cannot decode: {reason}; write the file "
            "again without this sample"
        )
        faults.append(Fault(row, DECODE, located(error, dataset, plan, field, row)))
    return faults


@contextmanager
def during(what: Callable[[], str]) -> Iterator[None]:
    """Add the note ``what()`` to any exception raised inside the with block."""
    try:
        yield
    except BaseException as error:
        error.add_note(what())
        raise

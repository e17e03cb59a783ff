"""Bytes from the file into memory, checked; unreadable and damaged payloads are returned, not raised.

Both devices read through this module. Bad payloads never reach a decoder.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.errors import ReadError
from ffcv_gpu.loader.faults import Fault, bad_checksum, unreadable
from ffcv_gpu.plan import BatchPlan, Payloads
from ffcv_gpu.readers import RangeReader
from ffcv_gpu.staging import Slot, Staged, Sums, corrupt_rows, read_and_sum
from ffcv_gpu.steps import IntArray
from ffcv_gpu.trace import StageClock

__all__ = ["read_into_place", "stage_payloads"]

ByteArray = npt.NDArray[np.uint8]


def stage_payloads(
    dataset: Dataset, clock: StageClock, slot: Slot, plan: BatchPlan, field: str, rows: IntArray | range
) -> tuple[Staged, list[Fault]]:
    """Read the payloads of `rows` of a batch into the slot, and check them against their checksums.

    A range of rows is not copied from the plan.

    Returns
    -------
    staged : Staged
        Payload i is that of ``rows[i]``; it is empty if it cannot be read.
    faults : list of Fault

    Raises
    ------
    ReadError
        If payloads that could just be read one by one now fail.
    """
    chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
    payloads = plan.payloads[field].take(chosen)
    errors: dict[int, ReadError] = {}
    with clock.span("read", items=len(rows)):
        try:
            staged = slot.stage(field, dataset.reading.batch(plan.index), payloads)
        except ReadError:  # bypass the epoch's pages, where one bad block hides all samples of a page
            single = dataset.one_by_one(plan.index)
            errors = find_unreadable(single, payloads)
            good = payloads.blanked(np.array(sorted(errors), np.int64))
            staged = slot.stage(field, single, good)
    return staged, faults_of(dataset, clock, plan, field, rows, staged, errors)


def read_into_place(
    dataset: Dataset,
    clock: StageClock,
    memory: ByteArray,
    starts: IntArray,
    plan: BatchPlan,
    field: str,
    rows: IntArray,
) -> list[Fault]:
    """Read the payloads of `rows` of a batch to ``memory[starts[i]:]``, without gaps, and check them.

    Returns the faults; the bytes of a payload that cannot be read are undefined.
    """
    payloads = plan.payloads[field].take(rows)
    errors: dict[int, ReadError] = {}
    sums: Sums | None = None
    with clock.span("read", items=rows.size):
        try:
            whole = memory[starts[0] : starts[-1] + payloads.lengths[-1]]
            sums = read_and_sum(dataset.reading.batch(plan.index), payloads, whole)
        except ReadError:
            errors = find_unreadable(dataset.one_by_one(plan.index), payloads, memory, starts)
            payloads = payloads.blanked(np.array(sorted(errors), np.int64))
    staged = Staged(memory, starts, payloads)
    return faults_of(dataset, clock, plan, field, rows, staged, errors, sums)


def find_unreadable(
    reader: RangeReader, payloads: Payloads, memory: ByteArray | None = None, starts: IntArray | None = None
) -> dict[int, ReadError]:
    """Read payloads one by one, to ``memory[starts[i]:]`` if given; return the errors by row."""
    errors: dict[int, ReadError] = {}
    for i, length in enumerate(payloads.lengths.tolist()):
        if memory is None or starts is None:
            out = np.empty(length, np.uint8)
        else:
            out = memory[starts[i] : starts[i] + length]
        try:
            reader.read_into(payloads.offsets[i : i + 1], payloads.lengths[i : i + 1], out)
        except ReadError as error:
            errors[i] = error
    return errors


def faults_of(
    dataset: Dataset,
    clock: StageClock,
    plan: BatchPlan,
    field: str,
    rows: IntArray | range,
    staged: Staged,
    errors: Mapping[int, ReadError],
    sums: Sums | None = None,
) -> list[Fault]:
    """Return the faults of payloads that could not be read (`errors`) or fail their checksum.

    `sums`: the checksums of the bytes, where they are known.
    """
    faults = [unreadable(dataset, plan, field, int(rows[i]), error) for i, error in sorted(errors.items())]
    if staged.payloads.checksums is None:
        return faults
    with clock.span("check", items=len(rows)):
        bad = corrupt_rows(staged, sums)
    return faults + [bad_checksum(dataset, plan, field, int(rows[i])) for i in bad]

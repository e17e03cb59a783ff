"""The words for what is wrong with stored bytes: file, sample, field, offset, and what to do."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.errors import DecodeError, ReadError
from ffcv_gpu.jpeg.base import Decoded
from ffcv_gpu.plan import BatchPlan, ImagePayloads

__all__ = ["bad_checksum", "bad_jpeg", "place"]


def place(path: str, plan: BatchPlan, field: str, row: int) -> str:
    """Return where the payload of row `row` of a batch lies, in words."""
    payloads = plan.payloads[field]
    return (
        f"{path}: sample {plan.sample_ids[row]}, field {field!r}: payload of {payloads.lengths[row]} bytes "
        f"at byte {payloads.offsets[row]}"
    )


def bad_checksum(path: str, plan: BatchPlan, field: str, row: int) -> ReadError:
    """Return the error for a payload that is not what was written."""
    return ReadError(
        f"{place(path, plan, field, row)} does not match its checksum: the file was damaged after it was "
        "written; restore it from a copy, or write it again"
    )


def bad_jpeg(
    path: str, plan: BatchPlan, field: str, rows: np.ndarray, outcome: Decoded, who: str
) -> DecodeError | None:
    """Return the error for the first image of `outcome` that is not good, None if all are.

    Image i of `outcome` is row ``rows[i]`` of the batch.
    """
    bad = np.flatnonzero(outcome.status)
    if bad.size == 0:
        return None
    row, reason = int(rows[bad[0]]), outcome.reasons.get(int(bad[0]), "no reason given")
    images = plan.payloads[field]
    assert isinstance(images, ImagePayloads)
    return DecodeError(
        f"{place(path, plan, field, row)}: a JPEG of {images.widths[row]} x {images.heights[row]} pixels "
        f"that {who} cannot decode: {reason}; write the file again without it"
    )

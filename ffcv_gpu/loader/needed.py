"""Which pixels of a batch's images are used, and for which fields a decoder that crops is worthwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ffcv_gpu.pipeline.program import FusedStage, Program
from ffcv_gpu.plan import BatchPlan, ImagePayloads, Payloads, StagePlan
from ffcv_gpu.steps import IntArray

__all__ = ["cropped_fields", "has_crop_index", "needed_boxes"]


def cropped_fields(programs: Iterable[Program]) -> frozenset[str]:
    """Return the fields whose outputs all start with a crop."""
    images = [program for program in programs if program.stages]
    return frozenset(p.field for p in images) - {p.field for p in images if not _crops(p)}


def _crops(program: Program) -> bool:
    first = program.stages[0]
    return isinstance(first, FusedStage) and first.sampling.frame() is not None


def has_crop_index(payloads: Payloads | None) -> bool:
    """Return whether some of a field's JPEGs have an index for crops."""
    return isinstance(payloads, ImagePayloads) and payloads.has_crop_index


def needed_boxes(plan: BatchPlan, programs: Iterable[Program]) -> IntArray | None:
    """Return the smallest boxes that contain the crops of all `programs` of one field.

    int64 (N, 4): y, x, height, width in source pixels. None if one of them uses whole images.
    """
    firsts: Sequence[object] = [plan.stages[p.name][0] for p in programs if p.stages]
    boxes = [first.boxes.astype(np.int64) for first in firsts if isinstance(first, StagePlan)]
    if not boxes or len(boxes) < len(firsts):
        return None
    starts = np.minimum.reduce([box[:, :2] for box in boxes])
    ends = np.maximum.reduce([box[:, :2] + box[:, 2:] for box in boxes])
    return np.concatenate([starts, ends - starts], axis=1)

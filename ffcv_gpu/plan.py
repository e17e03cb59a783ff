"""One batch written down as numpy arrays, before anything is read or decoded.

All randomness of an epoch is drawn here, keyed by (seed, epoch, sample, draw), so that a sample's
augmentation does not depend on batch size, workers or ranks, and everything behind the plan is
deterministic execution. A plan can be printed, pickled and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.kernels.codes import ERASE_INSIDE, ERASE_OUTSIDE
from ffcv_gpu.pipeline.program import FusedStage, Program
from ffcv_gpu.pipeline.table import to_bits
from ffcv_gpu.steps import Erase, IntArray, Mirror, Shift, channel_values

__all__ = ["BatchPlan", "ImagePayloads", "Payloads", "Planner", "StagePlan", "StageProgram", "stage_program"]


@dataclass(frozen=True)
class Payloads:
    """Where payloads of one field lie in the file: offsets and lengths in bytes, (N,) each.

    `checksums` are CRC32C values, None if the file carries none.
    """

    offsets: IntArray
    lengths: IntArray
    checksums: npt.NDArray[np.uint32] | None

    def take(self, rows: IntArray | slice) -> Self:
        """Return the same of some rows."""
        columns = {name: column[rows] for name, column in vars(self).items() if column is not None}
        return replace(self, **columns)


@dataclass(frozen=True)
class ImagePayloads(Payloads):
    """Payloads of images: also their `format.ImageMode`, and height and width in pixels, (N,) each.

    `facts` are the file's own `format.JPEG_FACTS`, (N,), None if it has none.
    """

    modes: npt.NDArray[np.uint8]
    heights: IntArray
    widths: IntArray
    facts: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class StagePlan:
    """The parameters of one fused launch for one batch.

    Attributes
    ----------
    boxes : int32 (N, 4)
        Crops: y, x, height, width in source pixels.
    geometry : int32 (N, 4)
        sign_y, shift_y, sign_x, shift_x: output (y, x) shows frame position
        (sign_y * y + shift_y, sign_x * x + shift_x).
    params : float32 (N, P)
        One column block per operation, as `StageProgram.ops` says.
    """

    boxes: npt.NDArray[np.int32]
    geometry: npt.NDArray[np.int32]
    params: npt.NDArray[np.float32]

    def take(self, rows: slice) -> StagePlan:
        """Return the same of some rows."""
        return StagePlan(self.boxes[rows], self.geometry[rows], self.params[rows])


@dataclass(frozen=True)
class BatchPlan:
    """One batch: which samples, where their bytes lie, and what is done to each.

    `payloads` is keyed by field name, `stages` by output name, with one entry per fused launch.
    """

    seed: int
    epoch: int
    index: int
    sample_ids: IntArray
    payloads: Mapping[str, Payloads]
    stages: Mapping[str, tuple[StagePlan, ...]]

    def __len__(self) -> int:
        return int(self.sample_ids.size)

    @property
    def draws(self) -> Draws:
        """The random numbers of these samples, for steps behind the fused launches."""
        return Draws(self.seed, self.epoch, self.sample_ids)


@dataclass(frozen=True)
class StageProgram:
    """The part of a fused launch that is the same for every batch.

    Attributes
    ----------
    ops : int32 (K, 2)
        Code (`kernels.codes`) and first column in `StagePlan.params`, in order.
    fills : uint32 (K, 4)
        Fill value per channel: grey level, or bits of the output dtype from `late_from` on.
    late_from : int
        First operation that acts on values after the lookup.
    """

    ops: npt.NDArray[np.int32]
    fills: npt.NDArray[np.uint32]
    late_from: int

    @property
    def param_columns(self) -> int:
        """Columns of `StagePlan.params`."""
        return 4 * len(self.ops)


def stage_program(stage: FusedStage) -> StageProgram:
    """Return the constant part of a stage's launch."""
    ops: list[tuple[int, int]] = []
    fills: list[npt.NDArray[np.uint32]] = []
    late_from = 0
    for action in stage.actions:
        if isinstance(action.step, Mirror):
            continue
        code = ERASE_INSIDE if isinstance(action.step, Erase) else ERASE_OUTSIDE
        values = channel_values(action.step.fill, stage.channels, f"{action.step!r}: fill")
        fill = np.zeros(4, np.uint32)
        fill[: stage.channels] = to_bits(values, stage.dtype if action.late else "uint8")
        late_from += not action.late
        ops.append((code, 4 * len(ops)))
        fills.append(fill)
    return StageProgram(
        np.array(ops, np.int32).reshape(-1, 2), np.array(fills, np.uint32).reshape(-1, 4), late_from
    )


class Planner:
    """Makes the plans of one epoch.

    Parameters
    ----------
    programs : sequence of Program
    payloads : mapping of str to Payloads
        For each field with payloads, the arrays of the *whole file*.
    seed, epoch : int
    """

    def __init__(
        self, programs: Sequence[Program], payloads: Mapping[str, Payloads], *, seed: int, epoch: int
    ) -> None:
        self._programs = tuple(programs)
        used = {program.field for program in programs}
        self._payloads = {name: p for name, p in payloads.items() if name in used}
        self._seed, self._epoch = seed, epoch

    def plan(self, index: int, sample_ids: IntArray) -> BatchPlan:
        """Return the plan of batch `index`, made of `sample_ids` (int64, rows of the file)."""
        payloads = {name: p.take(sample_ids) for name, p in self._payloads.items()}
        draws = Draws(self._seed, self._epoch, sample_ids)
        stages: dict[str, tuple[StagePlan, ...]] = {}
        for program in self._programs:
            images = payloads.get(program.field)
            if isinstance(images, ImagePayloads):
                stages[program.name] = plan_stages(program, images, draws)
        return BatchPlan(self._seed, self._epoch, index, sample_ids, payloads, stages)


def plan_stages(program: Program, payloads: ImagePayloads, draws: Draws) -> tuple[StagePlan, ...]:
    """Return the parameters of each fused launch of one output."""
    heights, widths = payloads.heights, payloads.widths
    plans = []
    for stage in program.stages:
        boxes = stage.sampling.boxes(draws, stage.draw, heights, widths)
        plans.append(_plan_actions(stage, boxes, draws))
        heights = np.full_like(heights, stage.frame[0])
        widths = np.full_like(widths, stage.frame[1])
    return tuple(plans)


def _plan_actions(stage: FusedStage, boxes: npt.NDArray[np.int32], draws: Draws) -> StagePlan:
    """Compose mirrors and shifts into one index map, and carry rectangles along to the final frame."""
    height, width = stage.frame
    count = boxes.shape[0]
    sign, shift_x, shift_y = np.ones((3, count), np.int64) * np.array([[1], [0], [0]])
    rectangles: list[IntArray] = []
    for action in stage.actions:
        step = action.step
        if isinstance(step, Mirror):
            flips = step.mirrored(draws, action.draw)
            shift_x = np.where(flips, shift_x + sign * (width - 1), shift_x)
            sign = np.where(flips, -sign, sign)
            rectangles = [_mirrored(r, flips, width) for r in rectangles]
        elif isinstance(step, Shift):
            by = step.offsets(draws, action.draw)
            shift_y, shift_x = shift_y + by[:, 0], shift_x + sign * by[:, 1]
            whole = np.tile(np.array([0, 0, height, width]), (count, 1))
            rectangles = [r - np.concatenate([by, by], axis=1) for r in (*rectangles, whole)]
        else:
            rectangles.append(step.rectangles(draws, action.draw, height, width))
    geometry = np.stack([np.ones(count, np.int64), shift_y, sign, shift_x], axis=1).astype(np.int32)
    return StagePlan(boxes, geometry, _columns(rectangles, count, height, width))


def _mirrored(rectangles: IntArray, flips: npt.NDArray[np.bool_], width: int) -> IntArray:
    turned = np.stack(
        [rectangles[:, 0], width - rectangles[:, 3], rectangles[:, 2], width - rectangles[:, 1]], axis=1
    )
    return np.where(flips[:, None], turned, rectangles)


def _columns(rectangles: list[IntArray], count: int, height: int, width: int) -> npt.NDArray[np.float32]:
    if not rectangles:
        return np.zeros((count, 0), np.float32)
    limit = np.array([height, width, height, width])
    return np.concatenate([np.clip(r, 0, limit) for r in rectangles], axis=1).astype(np.float32)

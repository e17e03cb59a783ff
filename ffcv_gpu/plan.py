"""The plan of one batch, as numpy arrays, before anything is read or decoded.

All randomness of an epoch is drawn here, keyed by (seed, epoch, sample, draw), so a sample's augmentation
does not depend on batch size, workers or ranks, and everything after the plan is deterministic. A plan can
be printed, pickled and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.format import has_crop_index
from ffcv_gpu.kernels.codes import CONTRAST, ERASE_INSIDE, ERASE_OUTSIDE, OPERATION_COLUMNS
from ffcv_gpu.pipeline.program import Action, FusedStage, PassStage, Program, Stage
from ffcv_gpu.pipeline.table import to_bits
from ffcv_gpu.steps import Colour, Erase, FloatArray, IntArray, Mirror, Sampling, Shift, Step, channel_values

__all__ = [
    "BLANK_IMAGE",
    "BatchPlan",
    "ImagePayloads",
    "PassPlan",
    "Payloads",
    "Planner",
    "StagePlan",
    "StageProgram",
    "plan_stages",
    "settled",
    "stage_program",
]

#: in `ImagePayloads.modes`, besides `format.ImageMode`: nothing is read, all pixels are 0
BLANK_IMAGE = 255


@dataclass(frozen=True)
class Payloads:
    """Where the payloads of one field lie in the file: offsets and lengths in bytes, (N,) each.

    `checksums` are CRC32C values, None if the file has none; -1 for the payloads of a file without, if it is
    one of several (then int64, else uint32).
    """

    offsets: IntArray
    lengths: IntArray
    checksums: npt.NDArray[Any] | None

    @property
    def sealed(self) -> bool:
        """Whether all payloads have checksums."""
        return self.checksums is not None and bool((self.checksums >= 0).all())

    def take(self, rows: IntArray | slice) -> Self:
        """Return the payloads of some rows."""
        columns: Any = (None if column is None else column[rows] for column in vars(self).values())
        return type(self)(*columns)

    def blanked(self, rows: IntArray) -> Self:
        """Return a copy with nothing to read for some rows: zeros replace their stored values."""
        zeros = {name: with_value(vars(self)[name], rows, 0) for name in ("offsets", "lengths")}
        if self.checksums is not None:
            zeros["checksums"] = with_value(self.checksums, rows, 0)  # the CRC32C of no bytes
        return replace(self, **zeros)


@dataclass(frozen=True)
class ImagePayloads(Payloads):
    """Payloads of images, with `modes` (`format.ImageMode` or `BLANK_IMAGE`), heights and widths, (N,) each.

    `facts` are the `format.JPEG_FACTS` stored in the file, (N,), None if it has none.
    """

    modes: npt.NDArray[np.uint8]
    heights: IntArray
    widths: IntArray
    facts: npt.NDArray[Any] | None = None

    @property
    def has_crop_index(self) -> bool:
        """Whether some of the JPEGs have an index for crops, as far as the file says."""
        return has_crop_index(self.facts)

    def blanked(self, rows: IntArray) -> Self:
        """Return a copy with pixels of 0 for some rows, whose sizes are kept."""
        return replace(super().blanked(rows), modes=with_value(self.modes, rows, BLANK_IMAGE))


def with_value(column: npt.NDArray[Any], rows: IntArray, value: int) -> npt.NDArray[Any]:
    """Return a copy of `column` with `value` in some rows."""
    changed = column.copy()
    changed[rows] = value
    return changed


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
        One block of columns per operation, as `StageProgram.ops` says. The mean for a contrast is not known
        yet: its column is 0, and is filled in by the launch.
    frame : (int, int)
        Height and width of the output in pixels.
    shown : int64 (N, 4), optional
        y0, x0, y1, x1: the part of the output that no shift has filled, for boxes that follow the pixels.
        None if there is at most one shift: that one follows from `geometry`.
    """

    boxes: npt.NDArray[np.int32]
    geometry: npt.NDArray[np.int32]
    params: npt.NDArray[np.float32]
    frame: tuple[int, int]
    shown: IntArray | None = None

    def take(self, rows: slice) -> StagePlan:
        """Return the plan of some rows."""
        shown = None if self.shown is None else self.shown[rows]
        return StagePlan(self.boxes[rows], self.geometry[rows], self.params[rows], self.frame, shown)


@dataclass(frozen=True)
class PassPlan:
    """The parameters of one launch on finished images for one batch: `params`, float32 (N, P).

    `kernel` is a launch of `kernels.pass_codes`, `frame` the output's height and width in pixels.
    """

    params: npt.NDArray[np.float32]
    kernel: int
    frame: tuple[int, int]

    def take(self, rows: slice) -> PassPlan:
        """Return the plan of some rows."""
        return PassPlan(self.params[rows], self.kernel, self.frame)


@dataclass(frozen=True)
class BatchPlan:
    """One batch: which samples, where their bytes lie, and what is done to each.

    `payloads` is keyed by field name, `stages` by output name, with one entry per launch.
    """

    seed: int
    epoch: int
    index: int
    sample_ids: IntArray
    payloads: Mapping[str, Payloads]
    stages: Mapping[str, tuple[StagePlan | PassPlan, ...]]

    def __len__(self) -> int:
        return int(self.sample_ids.size)

    def part(self, number: int, lo: int, hi: int) -> BatchPlan:
        """Return the plan of one batch of a bundle, samples [lo, hi), without what is done by then."""
        return BatchPlan(self.seed, self.epoch, self.index + number, self.sample_ids[lo:hi], {}, {})

    @property
    def draws(self) -> Draws:
        """The random numbers of these samples, for steps after the fused launches."""
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
    mean_columns : tuple of int
        Parameter columns that receive the mean of the grey source, float32, before the launch.
    """

    ops: npt.NDArray[np.int32]
    fills: npt.NDArray[np.uint32]
    late_from: int
    mean_columns: tuple[int, ...] = ()


def stage_program(stage: FusedStage) -> StageProgram:
    """Return the constant part of a stage's launch."""
    ops: list[tuple[int, int]] = []
    fills: list[npt.NDArray[np.uint32]] = []
    late_from = column = 0
    for action in stage.actions:
        if action.step.only_moves:
            continue
        ops.append((operation_code(action.step), column))
        column += OPERATION_COLUMNS[ops[-1][0]]
        late_from += not action.late
        fills.append(_fill(action, stage))
    return StageProgram(
        np.array(ops, np.int32).reshape(-1, 2),
        np.array(fills, np.uint32).reshape(-1, 4),
        late_from,
        tuple(first + 1 for code, first in ops if code == CONTRAST),
    )


def operation_code(step: Step) -> int:
    """Return the kernel's code for what a step does."""
    if isinstance(step, Colour):
        return step.code
    return int(ERASE_INSIDE if isinstance(step, Erase) else ERASE_OUTSIDE)


def _fill(action: Action, stage: FusedStage) -> npt.NDArray[np.uint32]:
    fill = np.zeros(4, np.uint32)
    if isinstance(action.step, Shift | Erase):
        values = channel_values(action.step.fill, stage.channels, f"{action.step!r}: fill")
        fill[: stage.channels] = to_bits(values, stage.dtype if action.late else "uint8")
    return fill


class Planner:
    """Makes the plans of one epoch.

    Parameters
    ----------
    programs : sequence of Program
    payloads : mapping of str to Payloads
        For each field with payloads, the arrays of the *whole file*.
    seed, epoch : int
        `epoch` is also an attribute.
    """

    def __init__(
        self, programs: Sequence[Program], payloads: Mapping[str, Payloads], *, seed: int, epoch: int
    ) -> None:
        self._stages = {p.name: (p.field, settled(p.stages)) for p in programs}
        used = {program.field for program in programs}
        self._payloads = {name: p for name, p in payloads.items() if name in used}
        self._seed, self.epoch = seed, epoch

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields whose payloads are read."""
        return frozenset(self._payloads)

    def plan(
        self, index: int, sample_ids: IntArray, blank: Mapping[str, IntArray] | None = None
    ) -> BatchPlan:
        """Return the plan of batch `index`.

        Parameters
        ----------
        index : int
        sample_ids : int64 (N,)
            Rows of the file.
        blank : mapping of str to int64 (n,), optional
            By field name, the rows of the batch whose values are replaced by zeros.
        """
        payloads = {name: p.take(sample_ids) for name, p in self._payloads.items()}
        for name, rows in (blank or {}).items():
            payloads[name] = payloads[name].blanked(rows)
        draws = Draws(self._seed, self.epoch, sample_ids)
        stages: dict[str, tuple[StagePlan | PassPlan, ...]] = {}
        for name, (field, launches) in self._stages.items():
            images = payloads.get(field)
            if isinstance(images, ImagePayloads):
                stages[name] = plan_stages(launches, images.heights, images.widths, draws)
        return BatchPlan(self._seed, self.epoch, index, sample_ids, payloads, stages)


def settled(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return stages whose crops stay as they are now, whatever is assigned to the decoder meanwhile.

    An epoch is planned ahead: a new `scale` would otherwise count from some batch on, at random.
    """
    return tuple(
        replace(stage, sampling=_copied(stage.sampling)) if isinstance(stage, FusedStage) else stage
        for stage in stages
    )


def _copied(sampling: Sampling) -> Sampling:
    made: Sampling = object.__new__(type(sampling))
    vars(made).update(vars(sampling))  # also what is left out of a pickle: machine code
    return made


def plan_stages(
    stages: Sequence[Stage], heights: IntArray, widths: IntArray, draws: Draws
) -> tuple[StagePlan | PassPlan, ...]:
    """Return the parameters of each launch of one output, for images of these sizes, (N,) each."""
    plans: list[StagePlan | PassPlan] = []
    for stage in stages:
        if isinstance(stage, PassStage):
            params = stage.step.amounts(draws, stage.draw, *stage.frame)
            plans.append(PassPlan(np.ascontiguousarray(params, np.float32), stage.step.kernel, stage.frame))
        else:
            boxes = stage.sampling.boxes(draws, stage.draw, heights, widths)
            plans.append(_plan_actions(stage, boxes, draws))
        heights = np.full_like(heights, stage.frame[0])
        widths = np.full_like(widths, stage.frame[1])
    return tuple(plans)


def _plan_actions(stage: FusedStage, boxes: npt.NDArray[np.int32], draws: Draws) -> StagePlan:
    """Compose mirrors and shifts into one index map, and transform rectangles to the final frame."""
    height, width = stage.frame
    count = boxes.shape[0]
    # along each axis (down, right), output position p shows position `sign * p + shift` of the frame
    signs, shifts = np.ones((2, count), np.int64), np.zeros((2, count), np.int64)
    blocks: list[_Rectangles | FloatArray] = []
    frames: list[int] = []  # which of the blocks are frames that a shift has moved
    for action in stage.actions:
        step = action.step
        if isinstance(step, Mirror):
            flips = step.mirrored(draws, action.draw)
            axis, side = (0, height) if step.vertical else (1, width)
            shifts[axis] += flips * signs[axis] * (side - 1)
            signs[axis] = np.where(flips, -signs[axis], signs[axis])
            blocks = [b.mirrored(flips, axis, side) if isinstance(b, _Rectangles) else b for b in blocks]
        elif isinstance(step, Shift):
            by = step.offsets(draws, action.draw)
            shifts += signs * by.T
            if not step.only_moves:
                frames.append(len(blocks))
                blocks.append(_Rectangles(np.tile(np.array([0, 0, height, width]), (count, 1))))
            blocks = [b.shifted(by) if isinstance(b, _Rectangles) else b for b in blocks]
        elif isinstance(step, Erase):
            blocks.append(_Rectangles(step.rectangles(draws, action.draw, height, width)))
        else:
            blocks.append(_amounts(step, draws, action.draw))
    geometry = np.stack([signs[0], shifts[0], signs[1], shifts[1]], axis=1).astype(np.int32)
    shown = _shown([blocks[k] for k in frames]) if len(frames) > 1 else None
    return StagePlan(boxes, geometry, _columns(blocks, count, height, width), stage.frame, shown)


def _shown(frames: Sequence[Any]) -> IntArray:
    """Return the part of the output that lies in all `frames`, `_Rectangles`; see `StagePlan.shown`."""
    corners = np.stack([frame.corners for frame in frames])
    return np.concatenate([corners[..., :2].max(axis=0), corners[..., 2:].min(axis=0)], axis=1)


def _amounts(step: Colour, draws: Draws, draw: int) -> FloatArray:
    """Return the columns of a colour operation; the mean for a contrast is left at 0."""
    amounts = step.amounts(draws, draw)
    missing = OPERATION_COLUMNS[step.code] - amounts.shape[1]
    return np.pad(amounts, ((0, 0), (0, missing))) if missing else amounts


@dataclass(frozen=True)
class _Rectangles:
    """One rectangle per sample, int64 (N, 4): y0, x0, y1, x1, where the next step sees it."""

    corners: IntArray

    def mirrored(self, flips: npt.NDArray[np.bool_], axis: int, side: int) -> _Rectangles:
        turned = self.corners.copy()
        turned[:, [axis, axis + 2]] = side - self.corners[:, [axis + 2, axis]]
        return _Rectangles(np.where(flips[:, None], turned, self.corners))

    def shifted(self, by: IntArray) -> _Rectangles:
        return _Rectangles(self.corners - np.concatenate([by, by], axis=1))


def _columns(
    blocks: Sequence[_Rectangles | FloatArray], count: int, height: int, width: int
) -> npt.NDArray[np.float32]:
    if not blocks:
        return np.zeros((count, 0), np.float32)
    limit = np.array([height, width, height, width])
    columns = [np.clip(b.corners, 0, limit) if isinstance(b, _Rectangles) else b for b in blocks]
    return np.concatenate(columns, axis=1).astype(np.float32)

"""Finds probable mistakes that are allowed: masks and boxes that match no image, equal views, wrong units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    CornerCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.fields.ragged import RaggedDecoder
from ffcv_gpu.kernels.pass_codes import PASS_WARP
from ffcv_gpu.pipeline.outputs import OutputSpec
from ffcv_gpu.pipeline.program import FusedStage, PassStage, Program
from ffcv_gpu.steps import ArrayStep, Erase, FloatArray, Mirror, Sampling, Shift, Source, Step, printed
from ffcv_gpu.transforms import NormalizeImage

__all__ = ["doubts"]

#: crops that are not random
FIXED = CenterCropRGBImageDecoder | CornerCropRGBImageDecoder | SimpleRGBImageDecoder


def doubts(
    outputs: Sequence[OutputSpec], programs: Sequence[Program], sources: Mapping[str, Source]
) -> list[str]:
    """Return one sentence per probable mistake."""
    found = []
    for output in outputs:
        source = sources[output.field]
        if source.heights is not None and source.dtype == "uint8":
            found += [f"pipeline {output.name!r}: {says}" for says in _units(output)]
    images = [_moves(p) for p in programs if p.stages and not sources[p.field].nearest]
    for mask in programs:
        moves = _moves(mask)
        if sources[mask.field].nearest and images and None not in (moves, *images) and moves not in images:
            found.append(
                f"pipeline {mask.name!r}: a mask, but no image output is cropped, mirrored and rotated like"
                " it: put the same step objects into both lists (crop, flip = ...; [crop, flip, ...] twice),"
                " or give both steps the same seed="
            )
    return found + _boxes(programs, sources) + _equal_views(programs)


def _boxes(programs: Sequence[Program], sources: Mapping[str, Source]) -> list[str]:
    """Report arrays with the shape of boxes that do not follow the moved pixels of their image."""
    moved = [program.name for program in programs if program.stages and _moves(program)]
    return [
        f"pipeline {program.name!r}: arrays (n, 4) come as they were stored, but the pixels of {moved[0]!r}"
        f" are moved: if these are boxes, read them with ffcv_gpu.fields.ragged.BoxDecoder({moved[0]!r})"
        for program in programs
        if moved and type(program.decoder) is RaggedDecoder and _like_boxes(sources[program.field])
    ]


def _like_boxes(source: Source) -> bool:
    return bool(source.field.shape == (4,) and source.field.dtype.kind == "f")


def _equal_views(programs: Sequence[Program]) -> list[str]:
    """Report image outputs that are identical, draw by draw."""
    found, known = [], dict[Any, str]()
    for program in programs:
        if not program.stages or any(isinstance(tail.step, ArrayStep) for tail in program.tail):
            continue
        key = program.field, program.notes, tuple(_draws(program))
        if key in known:
            found.append(
                f"outputs {known[key]!r} and {program.name!r} are equal, because the same step objects (or"
                " seeds) draw the same numbers: create new ones for another view"
            )
        known.setdefault(key, program.name)
    return found


def _draws(program: Program) -> Iterator[int]:
    for stage in program.stages:
        yield stage.draw
        if isinstance(stage, FusedStage):
            yield from (action.draw for action in stage.actions)


def _units(output: OutputSpec) -> Iterator[str]:
    """Report values given in the units 0 to 1 where grey levels are expected, or the reverse."""
    normalised = None
    for step in output.steps:
        statistics = _statistics(step)
        if statistics is not None and normalised is None:
            mean, std = normalised = statistics
            if (abs(std) < 1).all() and (abs(mean) <= 1).all():
                yield f"{step!r} has mean and std of images in 0..1; these are in 0..255: scale both by 255"
                return
        elif isinstance(step, ArrayStep | NormalizeImage):
            return  # the values after it are unknown
        elif normalised is not None and isinstance(step, Erase | Shift):
            ends = [(level - normalised[0]) / normalised[1] for level in (0, 255)]
            low, high = np.min(ends), np.max(ends)
            if min(step.fill) < low or max(step.fill) > high:
                yield (
                    f"{step!r} fills with {printed(step.fill)} after NormalizeImage, where values are"
                    f" {low:.3g} to {high:.3g}: put it before, or give a fill in these units"
                )


def _statistics(step: Step) -> tuple[FloatArray, FloatArray] | None:
    """Return mean and std of `NormalizeImage`, or of torchvision's `Normalize`; None for other steps."""
    if isinstance(step, NormalizeImage):
        return step.mean, step.std
    module: Any = getattr(step, "module", None)
    if type(module).__name__ == "Normalize" and type(module).__module__.startswith("torchvision."):
        return np.asarray(module.mean), np.asarray(module.std)
    return None


def _moves(program: Program) -> tuple[Any, ...] | None:
    """Return a key of where pixels come from, equal for outputs that match; None if it is unknown."""
    if any(getattr(tail.step, "moves_images", False) for tail in program.tail):
        return None
    moves: list[Any] = []
    for stage in program.stages:
        if isinstance(stage, FusedStage):
            moves += [_crop(stage.sampling, stage.draw)]
            moves += [action.draw for action in stage.actions if isinstance(action.step, Mirror | Shift)]
        elif isinstance(stage, PassStage) and stage.step.kernel == PASS_WARP:
            moves.append(stage.draw)
    return tuple(move for move in moves if move is not None)


def _crop(sampling: Sampling, draw: int) -> Any:
    """Return a key that distinguishes crops; None for a sampling that takes whole images."""
    own = getattr(sampling, "own_crop", None)
    if not isinstance(sampling, FIXED) or (own is not None and own()):
        return draw if sampling.frame() is not None else None
    parameters = sampling.parameters().items()
    return tuple((name, value) for name, value in parameters if name not in ("output_size", "resize")) or None

"""Finds probable mistakes that are allowed: masks and boxes that match no image, equal views, wrong units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    CornerCropRGBImageDecoder,
    IntDecoder,
    ResizedRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.fields.ragged import RaggedDecoder
from ffcv_gpu.kernels.pass_codes import PASS_WARP
from ffcv_gpu.pipeline.outputs import OutputSpec
from ffcv_gpu.pipeline.program import FusedStage, PassStage, Program
from ffcv_gpu.steps import ArrayStep, Erase, FloatArray, Mirror, Sampling, Shift, Source, Step, printed
from ffcv_gpu.transforms import (
    ImageMixup,
    LabelMixup,
    NormalizeImage,
    Poison,
    ReplaceLabel,
    Rotate,
    ToTorchImage,
    View,
)
from ffcv_gpu.transforms.base import Label

__all__ = ["doubts", "without_doubts"]

_WANTED = ContextVar("doubts are wanted", default=True)

#: crops that are not random
FIXED = CenterCropRGBImageDecoder | CornerCropRGBImageDecoder | ResizedRGBImageDecoder | SimpleRGBImageDecoder
#: shapes of `RaggedField`s that probably hold places in an image: what they are, and their decoder
_PLACES = {(4,): ("boxes", "BoxDecoder"), (2,): ("points", "KeypointDecoder")}

#: torchvision's transforms that work on any axes, or may be anything
_ANY_LAYOUT = ("Compose", "ConvertImageDtype", "Identity", "Lambda", "ToDtype")
#: torchvision's transforms that move pixels, always alike and at random
_RESIZING = frozenset({"CenterCrop", "Pad", "Resize"})
_MOVING = frozenset(
    {
        *("AugMix", "AutoAugment", "ElasticTransform", "RandAugment", "RandomAffine", "RandomCrop"),
        *("RandomHorizontalFlip", "RandomPerspective", "RandomResize", "RandomResizedCrop", "RandomRotation"),
        *("RandomVerticalFlip", "ScaleJitter", "TrivialAugmentWide"),
    }
)


def doubts(
    outputs: Sequence[OutputSpec],
    programs: Sequence[Program],
    sources: Mapping[str, Source],
    unknown: Sequence[str] = (),
) -> list[str]:
    """Return one sentence per probable mistake; none within `without_doubts`.

    `unknown` are names that the pipelines drop (None) although the file has no such field.
    """
    found: list[str] = []
    if not _WANTED.get():
        return found
    made = ", ".join(repr(output.name) for output in outputs)
    found += [f"pipelines drop {name!r}, but the file has no such field; outputs: {made}" for name in unknown]
    for output in outputs:
        source = sources[output.field]
        if source.heights is not None and source.dtype == "uint8":
            found += [
                f"pipeline {output.name!r}: {says}"
                for says in (*_units(output), *_degrees(output), *_layout(output))
            ]
        found += [f"pipeline {output.name!r}: {says}" for says in _rows_of_no_sample(output, source)]
    images = [_moves(p) for p in programs if p.stages and not sources[p.field].nearest]
    for mask in programs:
        moves = _moves(mask)
        if sources[mask.field].nearest and images and None not in (moves, *images) and moves not in images:
            found.append(
                f"pipeline {mask.name!r}: a mask, but no image output is cropped, mirrored and rotated like"
                " it: put the same step objects into both lists (crop, flip = ...; [crop, flip, ...] twice),"
                " or give both steps the same seed="
            )
    found += [*_places(programs, sources), *_left_behind(programs), *_equal_views(programs)]
    return [*found, *_labels_of_mixed(outputs), *_labels_of_nothing(outputs)]


@contextmanager
def without_doubts() -> Iterator[None]:
    """Find no mistakes meanwhile: for pipelines that no user wrote, or that were reported before."""
    before = _WANTED.set(False)
    try:
        yield
    finally:
        _WANTED.reset(before)


def _places(programs: Sequence[Program], sources: Mapping[str, Source]) -> list[str]:
    """Report arrays with the shape of boxes or points that do not follow the moved pixels of their image."""
    moved, found = [program.name for program in programs if program.stages and _moves(program)], []
    ragged = [program for program in programs if type(program.decoder) is RaggedDecoder]
    for program in ragged:
        field = sources[program.field].field
        if moved and field.dtype.kind == "f" and field.shape in _PLACES:
            things, decoder = _PLACES[field.shape]
            found.append(
                f"pipeline {program.name!r}: arrays (n, {field.shape[0]}) come as they were stored, but the"
                f" pixels of {moved[0]!r} are moved: if these are {things}, read them with"
                f" ffcv_gpu.fields.ragged.{decoder}({moved[0]!r})"
            )
    return found


def _rows_of_no_sample(output: OutputSpec, source: Source) -> Iterator[str]:
    """Report steps for chosen samples that name rows beyond the end of the file."""
    for step in output.steps:
        if isinstance(step, Poison | ReplaceLabel) and step.indices.max(initial=-1) >= len(source.records):
            yield (
                f"{step!r} is for row {step.indices.max()}, among others, but the file has rows 0 to"
                f" {len(source.records) - 1}: were these meant for another file?"
            )


def _left_behind(programs: Sequence[Program]) -> Iterator[str]:
    """Report boxes and points whose image a transform of torchvision moves further."""
    moving = {program.name: name for program in programs for name in _moving_modules(program)}
    for program in programs:
        like = next((like for tail in program.tail if (like := getattr(tail.step, "follows", None))), None)
        if like in moving:
            yield (
                f"pipeline {program.name!r}: like={like!r}, but does not follow torchvision's {moving[like]}"
                " there: use a step of ffcv_gpu for it"
            )


def _moving_modules(program: Program) -> Iterator[str]:
    """Return the names of torchvision's transforms that move the pixels of a finished batch."""
    modules: list[Any] = [getattr(tail.step, "module", None) for tail in program.tail]
    for module in modules:  # grows
        name = type(module).__name__
        if name in ("ModuleList", "Sequential"):
            modules += module
        elif _of_torchvision(module):
            modules += getattr(module, "transforms", ())
            if name in _MOVING | _RESIZING:
                yield name


def _labels_of_nothing(outputs: Sequence[OutputSpec]) -> Iterator[str]:
    """Report labels of what no step of an image draws."""
    drawn = {
        output.draws[step]
        for output in outputs
        for step in (output.decoder, *output.steps)
        if not isinstance(step, Label)
    }
    for output in outputs:
        for step in output.steps:
            if isinstance(step, Label) and output.draws[step] not in drawn:
                yield (
                    f"pipeline {output.name!r}: {step!r} reports what no image's step draws: give that"
                    " step the same seed"
                )


def _labels_of_mixed(outputs: Sequence[OutputSpec]) -> list[str]:
    """Report images that are mixed while no label is."""
    kinds = {output.name: {type(step) for step in output.steps} for output in outputs}
    mixed = [name for name, steps in kinds.items() if ImageMixup in steps]
    labels = [output.name for output in outputs if isinstance(output.decoder, IntDecoder)]
    if not mixed or not labels or any(LabelMixup in steps for steps in kinds.values()):
        return []
    return [
        f"pipeline {mixed[0]!r}: ImageMixup mixes each image with another one, but no label says so: put"
        f" LabelMixup with the same arguments into the list of {labels[0]!r}"
    ]


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
        elif normalised is not None and isinstance(step, Erase | Shift) and not step.only_moves:
            ends = [(level - normalised[0]) / normalised[1] for level in (0, 255)]
            low, high = np.min(ends), np.max(ends)
            if min(step.fill) < low or max(step.fill) > high:
                yield (
                    f"{step!r} fills with {printed(step.fill)} after NormalizeImage, where values are"
                    f" {low:.3g} to {high:.3g}: put it before, or give a fill in these units"
                )


def _degrees(output: OutputSpec) -> Iterator[str]:
    """Report angles of more than a turn."""
    for step in output.steps:
        if isinstance(step, Rotate) and step.angle > 2 * math.pi:
            yield (
                f"{step!r} turns by more than a whole turn: angles are in radians; for {step.angle:g}"
                f" degrees, write math.radians({step.angle:g})"
            )


def _layout(output: OutputSpec) -> Iterator[str]:
    """Report a transform of torchvision on (N, H, W, C), whose last axis it takes for the width."""
    for step in output.steps:
        module: Any = getattr(step, "module", None)
        ours = module is None and type(step).__module__.startswith("ffcv_gpu.")
        if isinstance(step, ToTorchImage | View) or not (ours or _of_torchvision(module)):
            return  # the layout is right, or unknown
        if module is not None and type(module).__name__ not in _ANY_LAYOUT:
            yield f"{step!r} takes images (N, C, H, W), not (N, H, W, C): put ToTorchImage() before it"
            return


def _of_torchvision(module: Any) -> bool:
    return type(module).__module__.startswith("torchvision.")


def _statistics(step: Step) -> tuple[FloatArray, FloatArray] | None:
    """Return mean and std of `NormalizeImage`, or of torchvision's `Normalize`; None for other steps."""
    if isinstance(step, NormalizeImage):
        return step.mean, step.std
    module: Any = getattr(step, "module", None)
    if type(module).__name__ == "Normalize" and _of_torchvision(module):
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
    for name in _moving_modules(program):  # a module draws new random numbers in each output
        moves.append(name if name in _RESIZING else (name, program.name))
    return tuple(move for move in moves if move is not None)


def _crop(sampling: Sampling, draw: int) -> Any:
    """Return a key that distinguishes crops; None for a sampling that takes whole images as they are."""
    own = getattr(sampling, "own_crop", None)
    if not isinstance(sampling, FIXED) or (own is not None and own()):
        return draw if sampling.frame() is not None else None
    if sampling.frame() is None:
        return None
    parameters = sampling.parameters().items()
    return tuple((name, value) for name, value in parameters if name not in ("output_size", "resize"))

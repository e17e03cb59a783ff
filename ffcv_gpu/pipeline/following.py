"""Checks between outputs: a follower's image output must exist, and a mask must have its image's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.pipeline.program import FusedStage, Program
from ffcv_gpu.steps import Source, Step

__all__ = ["check_followers", "check_masks"]


def check_followers(programs: Sequence[Program]) -> None:
    """Raise `PipelineError` if a step follows an output that does not exist or is not an image."""
    images = {program.name: program for program in programs if program.stages}
    for program in programs:
        for tail in program.tail:
            like = getattr(tail.step, "follows", None)
            if like is not None and like not in images:
                known = ", ".join(map(repr, images)) or "none"
                raise PipelineError(
                    f"pipeline {program.name!r}: like={like!r} is not an image output of this loader; image"
                    f" outputs: {known}"
                )
            if like is not None:
                _refuse_unseen(program.name, images[like])


def _refuse_unseen(name: str, image: Program) -> None:
    if any(getattr(tail.step, "moves_images", False) for tail in image.tail):
        raise PipelineError(
            f"pipeline {name!r}: like={image.name!r} cannot be followed, because it has steps on images after"
            " one that works on the finished batch; put them before it"
        )


def check_masks(programs: Sequence[Program], sources: Mapping[str, Source]) -> None:
    """Raise `PipelineError` if a mask shares a crop with an image of another size: they would not match."""
    for mask in programs:
        mine = sources[mask.field]
        for other in programs if mine.nearest and mask.stages else ():
            theirs = sources[other.field]
            if not _share_a_crop(mask, other) or mine.heights is None or theirs.heights is None:
                continue
            differs = np.flatnonzero((mine.heights != theirs.heights) | (mine.widths != theirs.widths))
            if differs.size:
                k = differs[0]
                raise PipelineError(
                    f"pipelines {mask.name!r} and {other.name!r} share {mask.decoder!r}, but their"
                    f" images differ in size: {sizes(mine, k)} and {sizes(theirs, k)} at sample {k} of the"
                    f" loader ({differs.size} samples); write mask and image in the same size, or give each"
                    " its own step"
                )


def _share_a_crop(one: Program, other: Program) -> bool:
    mine = {id(step) for step in _samplings(one)}
    return any(id(step) in mine for step in _samplings(other))


def _samplings(program: Program) -> list[Step]:
    return [stage.sampling if isinstance(stage, FusedStage) else stage.step for stage in program.stages]


def sizes(source: Source, k: int) -> str:
    """Return the size of sample k as text, width x height."""
    assert source.heights is not None and source.widths is not None
    return f"{source.widths[k]} x {source.heights[k]}"

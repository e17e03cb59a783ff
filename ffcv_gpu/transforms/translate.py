"""RandomTranslate: pad each image and cut a random window of the old size out of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import IntArray, Shift, fill_values

__all__ = ["RandomTranslate"]


class RandomTranslate(Shift):
    """Pad by `padding` pixels on every side, then take a random window of the old size.

    Part of the fused launch: nothing is padded, the index is shifted and the gap is filled.

    Parameters
    ----------
    padding : int
        Largest shift in pixels; each axis is shifted by a whole number uniform in
        [-padding, padding].
    fill : number or sequence of numbers, default (0, 0, 0)
        Value of what comes in from outside, per channel or one for all.

    Raises
    ------
    PipelineError
        If `padding` is not a whole number >= 0.
    """

    def __init__(self, padding: int, fill: float | Sequence[float] = (0, 0, 0)) -> None:
        if int(padding) != padding or padding < 0:
            raise PipelineError(f"RandomTranslate: padding must be a whole number >= 0, not {padding!r}")
        self.padding = int(padding)
        self.fill = fill_values(fill, "RandomTranslate")

    def offsets(self, draws: Draws, draw: int) -> IntArray:
        """Return int64 (N, 2): dy, dx, each in [-padding, padding]."""
        window = (draws.uniform(draw, 2) * (2 * self.padding + 1)).astype(np.int64)
        offsets: IntArray = window - self.padding
        return offsets

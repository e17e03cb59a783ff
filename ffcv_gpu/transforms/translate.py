"""RandomTranslate: pad each image and crop a random window of the original size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import MAX_SIDE
from ffcv_gpu.steps import FloatArray, IntArray, Shift, Source, fill_values, whole
from ffcv_gpu.transforms.base import Label, checked_seed

__all__ = ["LabelTranslate", "RandomTranslate"]


class RandomTranslate(Shift):
    """Pad by `padding` pixels on every side, then crop a random window of the original size.

    Images: (N, H, W, C) of any dtype, from an 8-bit image field; their size is kept. Part of the fused
    launch: nothing is padded, the index is shifted, and the gap is filled or shows the reflection.

    Parameters
    ----------
    padding : int
        Largest shift in pixels; each axis is shifted by a whole number uniform in [-padding, padding].
    fill : number or sequence of numbers, default (0, 0, 0)
        Value of pixels from outside the image, per channel or one for all.
    seed : int, optional
        Translations with equal seeds draw the same numbers; `LabelTranslate` reports them.
    padding_mode : {"constant", "reflect"}, keyword only
        What is padded: `fill`, or the image reflected at its first and last pixels, without repeating them
        (torchvision's and numpy's "reflect"); `fill` then has no effect. Behind another shift or an erasure,
        "reflect" takes a launch of its own. Boxes and points stay with what they mark, not its reflection.

    Raises
    ------
    PipelineError
        If `padding` is not a whole number from 0 to 65,535, or `padding_mode` is another; when the Loader is
        created, if "reflect" is to pad by the image's height or width, or more.
    """

    draw_name = "translate"

    def __init__(
        self,
        padding: int,
        fill: float | Sequence[float] = (0, 0, 0),
        seed: int | None = None,
        *,
        padding_mode: str = "constant",
    ) -> None:
        self.padding = whole(padding, "RandomTranslate: padding", 0, MAX_SIDE)
        self.fill = fill_values(fill, "RandomTranslate")
        self.seed = checked_seed(seed, "RandomTranslate")
        if not isinstance(padding_mode, str) or padding_mode not in ("constant", "reflect"):
            raise PipelineError(
                f"RandomTranslate: padding_mode is 'constant' or 'reflect', not {padding_mode!r}"
            )
        self.padding_mode = padding_mode

    @property
    def only_moves(self) -> bool:
        """Whether it changes no values, only which pixels are shown."""
        return self.padding_mode == "reflect"

    def check(self, height: int, width: int) -> None:
        """Raise `PipelineError` if the image is too small to be reflected."""
        if self.only_moves and self.padding >= min(height, width):
            raise PipelineError(
                f"{self!r} cannot reflect images of {width} x {height} pixels: padding must be less than both"
            )

    def offsets(self, draws: Draws, draw: int) -> IntArray:
        """Return int64 (N, 2): dy, dx, each in [-padding, padding]."""
        window = (draws.uniform(draw, 2) * (2 * self.padding + 1)).astype(np.int64)
        offsets: IntArray = window - self.padding
        return offsets


class LabelTranslate(Label):
    """Report what the `RandomTranslate` with the same seed does.

    (N, k) labels become (N, k + 2) float32; the new columns are dy and dx in pixels, so that output (y, x)
    shows input (y + dy, x + dx). (FFCV-SSL's columns are not the numbers drawn for the image.)

    Parameters
    ----------
    padding, fill, seed
        As for the `RandomTranslate`; `fill` has no effect here.

    Raises
    ------
    PipelineError
        If there is no seed, or (when the Loader is created) if its `RandomTranslate` differs.
    """

    columns = 2

    def __init__(
        self, padding: int, fill: float | Sequence[float] = (0, 0, 0), seed: int | None = None
    ) -> None:
        self._translate = RandomTranslate(padding, fill, seed)
        super().__init__(self._translate)

    def told(self, draws: Draws, draw: int, source: Source) -> FloatArray:
        """Return float64 (N, 2)."""
        return self._translate.offsets(draws, draw).astype(np.float64)

"""Cutout: overwrite a square somewhere in each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import Erase, IntArray, fill_values, whole

__all__ = ["Cutout"]


class Cutout(Erase):
    """Overwrite a random square of each image (DeVries and Taylor, 2017, arXiv 1708.04552).

    Images: (N, H, W, C) of any dtype, from an 8-bit image field. The square lies entirely inside the image,
    as in FFCV, at a uniformly random position. Part of the fused launch. After `NormalizeImage` the fill is
    in normalised units, before it in grey levels.

    Parameters
    ----------
    crop_size : int, optional
        Side of the square in pixels of the image at that point of the pipeline. Default: half of the
        image's shorter side, as in the paper for CIFAR-10 (16 of 32).
    fill : number or sequence of numbers, default (0, 0, 0)
        Value per channel, or one for all channels.

    Raises
    ------
    PipelineError
        If `crop_size` is not a whole number >= 1, or (when the Loader is created) larger than the image.
    """

    def __init__(self, crop_size: int | None = None, fill: float | Sequence[float] = (0, 0, 0)) -> None:
        self.crop_size = None if crop_size is None else whole(crop_size, "Cutout: crop_size", 1)
        self.fill = fill_values(fill, "Cutout")

    def check(self, height: int, width: int) -> None:
        """Raise `PipelineError` if the square does not fit into (height, width) pixels."""
        if self._side(height, width) > min(height, width):
            raise PipelineError(
                f"Cutout: a square of {self.crop_size} pixels does not fit into {height} x {width} pixels; "
                "choose a smaller crop_size"
            )

    def rectangles(self, draws: Draws, draw: int, height: int, width: int) -> IntArray:
        """Return int64 (N, 4): y0, x0, y1, x1 of each square."""
        side = self._side(height, width)
        room = np.array([height - side + 1, width - side + 1])
        corner = (draws.uniform(draw, 2) * room).astype(np.int64)
        return np.concatenate([corner, corner + side], axis=1)

    def _side(self, height: int, width: int) -> int:
        return max(min(height, width) // 2, 1) if self.crop_size is None else self.crop_size

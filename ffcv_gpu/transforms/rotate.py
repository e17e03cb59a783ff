"""Rotate: rotate some images by a random angle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.kernels.pass_codes import PASS_WARP
from ffcv_gpu.steps import FloatArray, ImagePass, fill_values, number
from ffcv_gpu.transforms.base import checked_seed, chosen, fill_bytes, probability

__all__ = ["Rotate"]


class Rotate(ImagePass):
    """Rotate an image around its centre, with probability `rotate_prob`.

    Images: (N, H, W, C) uint8, whose size is kept; each pixel is the nearest source pixel, or `fill` outside
    the source. Formula: torchvision's `rotate` with nearest interpolation; positive angles turn
    counter-clockwise.

    Parameters
    ----------
    rotate_prob : float, default 0.5
    angle : float, default 0.2
        Radians; the angle is uniform in [-angle, angle].
    seed : int, optional
        Steps of this kind with equal seeds draw the same numbers (an image and its mask, each with its fill).
    fill : number or sequence of numbers, default (0, 0, 0), keyword only
        Value of pixels from outside the source, per channel or one for all, 0 to 255.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    kernel = PASS_WARP
    why = "each pixel comes from another place in the image"
    draw_name = "rotate"

    def __init__(
        self,
        rotate_prob: float = 0.5,
        angle: float = 0.2,
        seed: int | None = None,
        *,
        fill: float | Sequence[float] = (0, 0, 0),
    ) -> None:
        self.rotate_prob = probability(rotate_prob, "Rotate")
        self.angle = number(angle, "Rotate: angle (radians)", 0)
        self.seed = checked_seed(seed, "Rotate")
        self.fill = fill_values(fill, "Rotate")

    def angles(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N,): radians, 0 where the image is unchanged."""
        u = draws.uniform(draw, 2)
        return np.where(chosen(u[:, 0], self.rotate_prob), (2 * u[:, 1] - 1) * self.angle, 0.0)

    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        """Return float64 (N, 6): the inverse rotation matrices."""
        angles = self.angles(draws, draw)
        cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
        return np.stack([cos, -sin, zero, sin, cos, zero], axis=1)

    def check(self, height: int, width: int, channels: int) -> None:
        """Raise `PipelineError` if the fill has another number of channels."""
        fill_bytes(self.fill, channels, "Rotate")

    def constants(self, height: int, width: int, channels: int) -> tuple[npt.NDArray[Any], ...]:
        """Return the fill."""
        return (fill_bytes(self.fill, channels, "Rotate"),)

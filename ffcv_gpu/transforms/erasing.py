"""RandomErasing: overwrite a rectangle of random size somewhere in some images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.steps import Erase, IntArray, crop_range, fill_values
from ffcv_gpu.transforms.base import checked_seed, chosen, probability

__all__ = ["RandomErasing"]

TRIES = 10


class RandomErasing(Erase):
    """Overwrite a random rectangle of an image, with probability `erase_prob` (Zhong et al., 1708.04896).

    Images: (N, H, W, C) of any dtype, from an 8-bit image field. Formula: torchvision's `RandomErasing`: each
    of up to 10 tries draws an area uniform in `scale` times the image's and an aspect ratio log-uniform in
    `ratio`; the first rectangle smaller than the image along both axes is erased at a uniformly random
    position. If none fits, the image is unchanged. Part of the fused launch. (FFCV-SSL takes its crop boxes,
    always squares, as rectangles, and with a seed it erases by a stale index.)

    Parameters
    ----------
    erase_prob : float, default 0.5
    scale : (float, float), default (0.08, 0.4)
        Bounds of the area as a share of the image's.
    ratio : (float, float), default (0.3, 3)
        Bounds of height / width.
    mean : number or sequence of numbers, default (128, 128, 128)
        Fill value per channel, or one for all.
    seed : int, optional
        Steps of this kind with equal seeds draw the same numbers.

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    draw_name = "erasing"

    def __init__(
        self,
        erase_prob: float = 0.5,
        scale: tuple[float, float] = (0.08, 0.4),
        ratio: tuple[float, float] = (0.3, 3),
        mean: float | Sequence[float] = (128, 128, 128),
        seed: int | None = None,
    ) -> None:
        self.erase_prob = probability(erase_prob, "RandomErasing")
        self.scale = crop_range(scale, "RandomErasing: scale", upper=1.0)
        self.ratio = crop_range(ratio, "RandomErasing: ratio")
        self.mean = fill_values(mean, "RandomErasing", "mean")
        self._fill = self.mean
        self.seed = checked_seed(seed, "RandomErasing")

    @property
    def fill(self) -> Sequence[float]:  # type: ignore[override]
        """`mean`."""
        return self._fill

    def rectangles(self, draws: Draws, draw: int, height: int, width: int) -> IntArray:
        """Return int64 (N, 4): y0, x0, y1, x1; empty where the image is unchanged."""
        u = draws.uniform(draw, 3 + 2 * TRIES)
        area = height * width * (self.scale[0] + u[:, 3::2] * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = np.exp(low + u[:, 4::2] * (high - low))
        tall, wide = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (tall < height) & (wide < width)
        first, rows = fits.argmax(axis=1), np.arange(len(u))
        sides = np.stack([tall[rows, first], wide[rows, first]], axis=1).astype(np.int64)
        corner = (u[:, 1:3] * (np.array([height, width]) - sides + 1)).astype(np.int64)
        made = np.concatenate([corner, corner + sides], axis=1)
        erased = chosen(u[:, 0], self.erase_prob) & fits[rows, first]
        return np.where(erased[:, None], made, 0)

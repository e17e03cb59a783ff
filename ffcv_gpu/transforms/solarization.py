"""RandomSolarization: invert the bright values of some images."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.kernels.codes import SOLARIZE
from ffcv_gpu.steps import Colour, FloatArray, Source, number
from ffcv_gpu.transforms.base import Label, checked_seed, chosen, probability

__all__ = ["LabelSolarization", "RandomSolarization"]

NO_VALUE = 256.0


class RandomSolarization(Colour):
    """Invert all values at or above a threshold, with probability `solarization_prob`.

    Images: (N, H, W, 1 or 3) uint8. Formula: ``255 - value if value >= threshold else value`` (torchvision's
    `solarize`). Part of the fused launch.

    Parameters
    ----------
    solarization_prob : float, default 0.5
    threshold : float, default 128
        Grey level, 0 (inverts all) to 256 (inverts nothing).
    seed : int, optional
        Steps of this kind with equal seeds draw the same numbers; `LabelSolarization` reports them.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    code = SOLARIZE
    draw_name = "solarization"

    def __init__(
        self, solarization_prob: float = 0.5, threshold: float = 128, seed: int | None = None
    ) -> None:
        self.solarization_prob = probability(solarization_prob, "RandomSolarization")
        self.threshold = number(threshold, "RandomSolarization: threshold", 0, NO_VALUE)
        self.seed = checked_seed(seed, "RandomSolarization")

    def solarized(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, 1): 1 where the image is changed, else 0."""
        return chosen(draws.uniform(draw, 1), self.solarization_prob).astype(np.float64)

    def amounts(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, 1): the threshold, 256 where the image is unchanged."""
        return np.where(self.solarized(draws, draw) == 1, self.threshold, NO_VALUE)


class LabelSolarization(Label):
    """Report what the `RandomSolarization` with the same seed does: append a column, 1.0 if changed, else 0.

    Labels: (N, k) or (N,) become (N, k + 1) float32; (N, 1) float32 if the step comes first.

    Parameters
    ----------
    solarization_prob, threshold, seed
        As for the `RandomSolarization`.

    Raises
    ------
    PipelineError
        If there is no seed, or (when the Loader is created) if its `RandomSolarization` differs.
    """

    def __init__(
        self, solarization_prob: float = 0.5, threshold: float = 128, seed: int | None = None
    ) -> None:
        self._solarization = RandomSolarization(solarization_prob, threshold, seed)
        super().__init__(self._solarization)

    def told(self, draws: Draws, draw: int, source: Source) -> FloatArray:
        """Return float64 (N, 1)."""
        return self._solarization.solarized(draws, draw)

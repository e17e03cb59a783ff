"""RandomGrayscale: make some images grey, with three equal channels."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.kernels.codes import GRAYSCALE
from ffcv_gpu.steps import Colour, FloatArray, Source
from ffcv_gpu.transforms.base import Label, checked_seed, chosen, probability

__all__ = ["LabelGrayscale", "RandomGrayscale"]


class RandomGrayscale(Colour):
    """Convert an image to grey, with probability `gray_prob`.

    Images: (N, H, W, 3) uint8. Formula: ``floor(0.2989 R + 0.587 G + 0.114 B)`` in all channels
    (torchvision's `rgb_to_grayscale`). Part of the fused launch.

    Parameters
    ----------
    gray_prob : float, default 0.2
    seed : int, optional
        Steps of this kind with equal seeds draw the same numbers; `LabelGrayscale` reports them.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    code = GRAYSCALE
    draw_name = "grayscale"

    def __init__(self, gray_prob: float = 0.2, seed: int | None = None) -> None:
        self.gray_prob = probability(gray_prob, "RandomGrayscale")
        self.seed = checked_seed(seed, "RandomGrayscale")

    def amounts(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, 1): 1 where the image becomes grey, else 0."""
        return chosen(draws.uniform(draw, 1), self.gray_prob).astype(np.float64)


class LabelGrayscale(Label):
    """Report what the `RandomGrayscale` with the same seed does: append a column, 1.0 if grey, else 0.

    Labels: (N, k) or (N,) become (N, k + 1) float32; (N, 1) float32 if the step comes first.

    Parameters
    ----------
    gray_prob, seed
        As for the `RandomGrayscale`.

    Raises
    ------
    PipelineError
        If there is no seed, or (when the Loader is created) if its `RandomGrayscale` differs.
    """

    def __init__(self, gray_prob: float = 0.2, seed: int | None = None) -> None:
        self._gray = RandomGrayscale(gray_prob, seed)
        super().__init__(self._gray)

    def told(self, draws: Draws, draw: int, source: Source) -> FloatArray:
        """Return float64 (N, 1)."""
        return self._gray.amounts(draws, draw)

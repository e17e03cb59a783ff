"""RandomHorizontalFlip: mirror some images left to right."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.steps import Mirror
from ffcv_gpu.transforms.base import probability

__all__ = ["RandomHorizontalFlip"]


class RandomHorizontalFlip(Mirror):
    """Mirror each image left to right with probability `flip_prob`.

    Part of the fused launch: it costs nothing but a change of index.

    Parameters
    ----------
    flip_prob : float, default 0.5
        Probability of a flip, in [0, 1].

    Raises
    ------
    PipelineError
        If `flip_prob` is not a probability.
    """

    def __init__(self, flip_prob: float = 0.5) -> None:
        self.flip_prob = probability(flip_prob, "RandomHorizontalFlip")

    def mirrored(self, draws: Draws, draw: int) -> npt.NDArray[np.bool_]:
        """Return bool (N,): True where the draw lies below `flip_prob`."""
        flips: npt.NDArray[np.bool_] = draws.uniform(draw, 1)[:, 0] < self.flip_prob
        return flips

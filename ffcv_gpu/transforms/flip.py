"""RandomHorizontalFlip, RandomVerticalFlip: mirror some images; and the label that reports which."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.steps import FloatArray, Mirror, Source
from ffcv_gpu.transforms.base import Label, checked_seed, probability

__all__ = ["LabelRandomHorizontalFlip", "RandomHorizontalFlip", "RandomVerticalFlip"]


class _RandomFlip(Mirror):
    """Base: mirror with probability `flip_prob`."""

    def __init__(self, flip_prob: float = 0.5, seed: int | None = None) -> None:
        name = type(self).__name__
        self.flip_prob = probability(flip_prob, name)
        self.seed = checked_seed(seed, name)

    def mirrored(self, draws: Draws, draw: int) -> npt.NDArray[np.bool_]:
        """Return bool (N,): True where the draw lies below `flip_prob`."""
        flips: npt.NDArray[np.bool_] = draws.uniform(draw, 1)[:, 0] < self.flip_prob
        return flips


class RandomHorizontalFlip(_RandomFlip):
    """Mirror each image left to right with probability `flip_prob`.

    Images: (N, H, W, C) of any dtype. Formula: ``image[:, ::-1]`` where a uniform number is below
    `flip_prob`. Part of the fused launch, where it only changes an index.

    Parameters
    ----------
    flip_prob : float, default 0.5
        Probability of a flip, in [0, 1].
    seed : int, optional
        Flips with equal seeds flip the same samples (an image and its mask);
        `LabelRandomHorizontalFlip` reports which.

    Raises
    ------
    PipelineError
        If `flip_prob` is not a probability.
    """

    draw_name = "flip"


class RandomVerticalFlip(_RandomFlip):
    """Turn each image upside down with probability `flip_prob`.

    Images: (N, H, W, C) of any dtype. Formula: ``image[::-1]`` where a uniform number is below `flip_prob`.
    Part of the fused launch, where it only changes an index. (Not in FFCV.)

    Parameters
    ----------
    flip_prob : float, default 0.5
        Probability of a flip, in [0, 1].
    seed : int, optional
        Flips of this kind with equal seeds flip the same samples (an image and its mask).

    Raises
    ------
    PipelineError
        If `flip_prob` is not a probability.
    """

    vertical = True
    draw_name = "vertical flip"


class LabelRandomHorizontalFlip(Label):
    """Report what the `RandomHorizontalFlip` with the same seed does: append a column, 1 if mirrored, else 0.

    Labels: (N, k) or (N,) become (N, k + 1) float32; (N, 1) float32 if the step comes first.

    Parameters
    ----------
    flip_prob, seed
        As for the `RandomHorizontalFlip`.

    Raises
    ------
    PipelineError
        If there is no seed, or (when the Loader is created) if its `RandomHorizontalFlip` differs.
    """

    def __init__(self, flip_prob: float = 0.5, seed: int | None = None) -> None:
        self._flip = RandomHorizontalFlip(flip_prob, seed)
        super().__init__(self._flip)

    def told(self, draws: Draws, draw: int, source: Source) -> FloatArray:
        """Return float64 (N, 1)."""
        return self._flip.mirrored(draws, draw).astype(np.float64)[:, None]

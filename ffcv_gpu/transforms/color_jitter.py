"""Brightness, contrast, saturation and hue, each changed by a factor drawn per sample.

Formulas: torchvision's on uint8 tensors (transforms/v2/functional/_color.py), which FFCV's and FFCV-SSL's
transforms copy: ``blend(image, other, factor) = clip(factor * image + (1 - factor) * other, 0, 255)``,
rounded down, where `other` is black, the mean of the grey image, or the grey image itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.kernels.codes import BRIGHTNESS, CONTRAST, HUE, SATURATION
from ffcv_gpu.steps import Colour, FloatArray, Source, Step, number
from ffcv_gpu.transforms.base import ColourPart, Label, checked_seed, chosen, factor_range, probability

__all__ = [
    "LabelColorJitter",
    "RandomBrightness",
    "RandomColorJitter",
    "RandomContrast",
    "RandomSaturation",
]


class _RandomFactor(Colour):
    """Base: with probability `p`, one operation with a factor drawn uniformly around 1."""

    def __init__(self, magnitude: float, p: float = 0.5, *, seed: int | None = None) -> None:
        name = type(self).__name__
        self.magnitude = number(magnitude, f"{name}: magnitude", 0)
        self.p = probability(p, name)
        self.seed = checked_seed(seed, name)

    def amounts(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, 1): the factor in [max(0, 1 - magnitude), 1 + magnitude], 1 if unchanged."""
        u = draws.uniform(draw, 2)
        low, high = factor_range(self.magnitude, type(self).__name__)
        factors = np.where(chosen(u[:, 0], self.p), low + u[:, 1] * (high - low), 1.0)
        return np.asarray(factors[:, None])


class RandomBrightness(_RandomFactor):
    """Multiply an image by a random factor, with probability `p`. Images: (N, H, W, 1 or 3) uint8.

    Formula: ``clip(factor * image, 0, 255)``, rounded down (torchvision's `adjust_brightness`; FFCV's).
    Part of the fused launch.

    Parameters
    ----------
    magnitude : float
        The factor is uniform in [max(0, 1 - magnitude), 1 + magnitude].
    p : float, default 0.5
        Probability that an image is changed.
    seed : int, optional, keyword only
        Steps of this kind with equal seeds draw the same numbers.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    code = BRIGHTNESS
    draw_name = "brightness"


class RandomContrast(_RandomFactor):
    """Change the contrast of an image by a random factor, with probability `p`.

    Images: (N, H, W, 1 or 3) uint8. Formula: ``clip(factor * image + (1 - factor) * mean, 0, 255)``, rounded
    down; `mean` is that of ``floor(0.2989 R + 0.587 G + 0.114 B)`` (torchvision's `adjust_contrast`; FFCV's).
    The mean is measured on the finished image by a small separate launch; the change itself is fused.

    Parameters
    ----------
    magnitude : float
        The factor is uniform in [max(0, 1 - magnitude), 1 + magnitude].
    p : float, default 0.5
        Probability that an image is changed.
    seed : int, optional, keyword only
        Steps of this kind with equal seeds draw the same numbers.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    code = CONTRAST
    draw_name = "contrast"


class RandomSaturation(_RandomFactor):
    """Change the saturation of an image by a random factor, with probability `p`.

    Images: (N, H, W, 3) uint8; grey images are unchanged. Formula:
    ``clip(factor * image + (1 - factor) * grey, 0, 255)``, rounded down; grey is
    ``floor(0.2989 R + 0.587 G + 0.114 B)`` of each pixel (torchvision's `adjust_saturation`; FFCV's). Part of
    the fused launch.

    Parameters
    ----------
    magnitude : float
        The factor is uniform in [max(0, 1 - magnitude), 1 + magnitude].
    p : float, default 0.5
        Probability that an image is changed.
    seed : int, optional, keyword only
        Steps of this kind with equal seeds draw the same numbers.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    code = SATURATION
    draw_name = "saturation"


class RandomColorJitter(Step):
    """Change brightness, contrast, saturation and hue, in this order, with probability `jitter_prob`.

    FFCV-SSL's name and parameters with torchvision's results (`adjust_brightness`, `adjust_contrast`,
    `adjust_saturation`, `adjust_hue`, each rounded to uint8; FFCV-SSL's hue formula differs). Images:
    (N, H, W, 3) uint8. Fused, except that contrast needs the mean of the image so far: the fused launch ends
    before it, and a small one measures the mean. A part whose range is neutral is skipped.

    Parameters
    ----------
    jitter_prob : float, default 0.5
        Probability that an image is changed.
    brightness, contrast, saturation : float or (float, float), defaults 0.8, 0.4, 0.4
        The factor is uniform in [max(0, 1 - x), 1 + x], or in the range given.
    hue : float or (float, float), default 0.2
        The shift, in turns of the colour circle, is uniform in [-x, x] or in the range given, within
        -0.5 to 0.5.
    seed : int, optional
        Jitters with equal seeds draw the same numbers; `LabelColorJitter` reports them.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    draw_name = "color_jitter"

    def __init__(
        self,
        jitter_prob: float = 0.5,
        brightness: Any = 0.8,
        contrast: Any = 0.4,
        saturation: Any = 0.4,
        hue: Any = 0.2,
        seed: int | None = None,
    ) -> None:
        self.jitter_prob = probability(jitter_prob, "RandomColorJitter")
        self.brightness = factor_range(brightness, "RandomColorJitter: brightness")
        self.contrast = factor_range(contrast, "RandomColorJitter: contrast")
        self.saturation = factor_range(saturation, "RandomColorJitter: saturation")
        self.hue = factor_range(hue, "RandomColorJitter: hue", 0.0, (-0.5, 0.5))
        self.seed = checked_seed(seed, "RandomColorJitter")

    def parts(self) -> Sequence[Step]:
        """Return one colour operation per part, without those whose range is neutral."""
        codes = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION, "hue": HUE}
        made = []
        for column, (name, code) in enumerate(codes.items()):
            if getattr(self, name) != ((0.0, 0.0) if code == HUE else (1.0, 1.0)):
                made.append(ColourPart(self, name, code, partial(self._column, column)))
        return made

    def factors(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, 4): the brightness, contrast and saturation factors, and the hue shift."""
        u = draws.uniform(draw, 5)
        low, high = np.array([self.brightness, self.contrast, self.saturation, self.hue]).T
        drawn = low + u[:, 1:] * (high - low)
        factors = np.where(chosen(u[:, :1], self.jitter_prob), drawn, [1.0, 1.0, 1.0, 0.0])
        return np.asarray(factors)

    def _column(self, column: int, draws: Draws, draw: int) -> FloatArray:
        return self.factors(draws, draw)[:, column : column + 1]


class LabelColorJitter(Label):
    """Report what the `RandomColorJitter` with the same seed does.

    (N, k) labels become (N, k + 4) float32; the new columns are the brightness, contrast and saturation
    factors (1: unchanged) and the hue shift in turns (0: unchanged).

    Parameters
    ----------
    jitter_prob, brightness, contrast, saturation, hue, seed
        As for the `RandomColorJitter`. Defaults: 0.5, and 0 for each change, as in FFCV-SSL.

    Raises
    ------
    PipelineError
        If an argument is out of range or there is no seed, or (when the Loader is created) if the
        `RandomColorJitter` with this seed has other arguments.
    """

    columns = 4

    def __init__(
        self,
        jitter_prob: float = 0.5,
        brightness: Any = 0,
        contrast: Any = 0,
        saturation: Any = 0,
        hue: Any = 0,
        seed: int | None = None,
    ) -> None:
        self._jitter = RandomColorJitter(jitter_prob, brightness, contrast, saturation, hue, seed)
        super().__init__(self._jitter)

    def told(self, draws: Draws, draw: int, source: Source) -> FloatArray:
        """Return float64 (N, 4)."""
        return self._jitter.factors(draws, draw)

"""GaussianBlur: blur some images."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.kernels.pass_codes import PASS_BLUR
from ffcv_gpu.steps import FloatArray, ImagePass, Source, crop_range, whole
from ffcv_gpu.transforms.base import Label, checked_seed, chosen, probability

__all__ = ["GaussianBlur", "LabelGaussianBlur"]


class GaussianBlur(ImagePass):
    """Blur an image along both axes, with probability `blur_prob`.

    Images: (N, H, W, C) uint8, reflected at the edges, rounded to uint8. Formula: torchvision's
    `gaussian_blur`, weights ``exp(-(i / sigma)**2 / 2)`` over `kernel_size` pixels, divided by their sum.
    FFCV-SSL draws from 10 fixed sigmas and darkens the edges; here sigma is uniform, as in torchvision.

    Parameters
    ----------
    blur_prob : float
    kernel_size : int, default 5
        Pixels, odd; half of it must be smaller than the image.
    sigma : float or (float, float), default (0.1, 2.0)
        Standard deviation in pixels, uniform in this range.
    seed : int, optional
        Steps of this kind with equal seeds draw the same numbers; `LabelGaussianBlur` reports them.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8 or are
        too small.
    """

    kernel = PASS_BLUR
    why = "each pixel depends on its neighbours"
    draw_name = "gaussian_blur"

    def __init__(
        self, blur_prob: float, kernel_size: int = 5, sigma: Any = (0.1, 2.0), seed: int | None = None
    ) -> None:
        self.blur_prob = probability(blur_prob, "GaussianBlur")
        self.kernel_size = whole(kernel_size, "GaussianBlur: kernel_size", 1)
        if self.kernel_size % 2 == 0:
            raise PipelineError(
                f"GaussianBlur: kernel_size must be an odd number of pixels, not {kernel_size!r}"
            )
        self.sigma = crop_range((sigma, sigma) if np.ndim(sigma) == 0 else sigma, "GaussianBlur: sigma")
        self.seed = checked_seed(seed, "GaussianBlur")

    def check(self, height: int, width: int, channels: int) -> None:
        """Raise `PipelineError` if half of the kernel is not smaller than the image."""
        if self.kernel_size // 2 >= min(height, width):
            raise PipelineError(
                f"GaussianBlur: kernel_size {self.kernel_size} is too large for images of {height} x {width} "
                "pixels; choose a smaller one"
            )

    def sigmas(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, 1): sigma in pixels, 0 where the image is unchanged."""
        u = draws.uniform(draw, 2)
        low, high = self.sigma
        return np.where(chosen(u[:, :1], self.blur_prob), low + u[:, 1:] * (high - low), 0.0)

    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        """Return float64 (N, kernel_size): the weights."""
        sigmas = self.sigmas(draws, draw)
        away = np.arange(self.kernel_size) - self.kernel_size // 2
        weights = np.exp(-0.5 * (away / np.where(sigmas > 0, sigmas, 1.0)) ** 2)
        weights = np.where(sigmas > 0, weights, (away == 0).astype(np.float64))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


class LabelGaussianBlur(Label):
    """Report what the `GaussianBlur` with the same seed does: append a column, sigma in pixels, 0 for none.

    Labels: (N, k) or (N,) become (N, k + 1) float32; (N, 1) float32 if the step comes first.

    Parameters
    ----------
    blur_prob, kernel_size, sigma, seed
        As for the `GaussianBlur`.

    Raises
    ------
    PipelineError
        If there is no seed, or (when the Loader is created) if its `GaussianBlur` differs.
    """

    def __init__(
        self, blur_prob: float, kernel_size: int, sigma: Any = (0.1, 2.0), seed: int | None = None
    ) -> None:
        self._blur = GaussianBlur(blur_prob, kernel_size, sigma, seed)
        super().__init__(self._blur)

    def told(self, draws: Draws, draw: int, source: Source) -> FloatArray:
        """Return float64 (N, 1)."""
        return self._blur.sigmas(draws, draw)

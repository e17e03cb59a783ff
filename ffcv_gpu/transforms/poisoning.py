"""Poison: blend a mask into chosen samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.kernels.pass_codes import PASS_BLEND
from ffcv_gpu.steps import FloatArray, ImagePass, numbers
from ffcv_gpu.transforms.base import sample_rows

__all__ = ["Poison"]


class Poison(ImagePass):
    """Blend a mask into the images of chosen samples (backdoor attacks and watermarks).

    Images: (N, H, W, C) uint8. Formula (FFCV's): ``clip(image * (1 - alpha) + mask * alpha, *clamp)``,
    rounded to the nearest level (FFCV rounds down).

    Parameters
    ----------
    mask : array of numbers, (H, W, C)
        In grey levels.
    alpha : array of float, (H, W)
        Opacity of the mask; 0 keeps the pixel.
    indices : sequence of int
        The chosen samples' rows in the file.
    clamp : (float, float), default (0, 255)
        Bounds of the result.

    Raises
    ------
    PipelineError
        If shapes or indices are invalid, or (when the Loader is created) if the images have another size.
    """

    kernel = PASS_BLEND
    why = "blends in a mask that has one value per pixel"

    def __init__(self, mask: Any, alpha: Any, indices: Any, clamp: tuple[float, float] = (0, 255)) -> None:
        self.mask = numbers(mask, "Poison: mask")
        self.alpha = numbers(alpha, "Poison: alpha")
        self.indices = sample_rows(indices, "Poison")
        try:
            self.clamp = tuple(float(bound) for bound in clamp)
        except (TypeError, ValueError, OverflowError) as error:
            raise PipelineError(f"Poison: clamp must be (low, high), not {clamp!r}") from error
        if self.mask.ndim != 3 or self.alpha.shape != self.mask.shape[:2]:
            raise PipelineError(
                "Poison: mask must be (height, width, channels) and alpha (height, width), not "
                f"{self.mask.shape} and {self.alpha.shape}"
            )
        if len(self.clamp) != 2 or not self.clamp[0] <= self.clamp[1]:
            raise PipelineError(f"Poison: clamp must be (low, high), not {clamp!r}")

    def check(self, height: int, width: int, channels: int) -> None:
        """Raise `PipelineError` if the mask has another size."""
        if self.mask.shape != (height, width, channels):
            raise PipelineError(
                f"Poison: a mask of shape {self.mask.shape} does not fit images of "
                f"{(height, width, channels)}; it must have their size at this point of the pipeline"
            )

    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        """Return float64 (N, 1): 1 for chosen samples, else 0."""
        return np.isin(draws.samples, self.indices).astype(np.float64)[:, None]

    def constants(self, height: int, width: int, channels: int) -> tuple[npt.NDArray[Any], ...]:
        """Return the images' weight and the term to add, float32 (H, W, C), and the bounds, float32 (2,)."""
        opacity = np.repeat(self.alpha[:, :, None], channels, axis=2)
        arrays = (1 - opacity, self.mask * opacity, np.array(self.clamp))
        return tuple(array.astype(np.float32) for array in arrays)

    def __repr__(self) -> str:
        return f"Poison(mask {self.mask.shape}, {self.indices.size} samples)"

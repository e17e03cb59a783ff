"""RandomResizedCrop as a transform: on images that a decoder has already cut out or left whole."""

from __future__ import annotations

from typing import Any

from ffcv_gpu.crops import CROP_DRAWS, random_resized_crop
from ffcv_gpu.draws import Draws
from ffcv_gpu.steps import BoxArray, IntArray, Sampling, crop_range, output_pair, resize_name

__all__ = ["RandomResizedCrop"]


class RandomResizedCrop(Sampling):
    """Crop a random part of each image and resample it to a square.

    Images: (N, H, W, C) uint8 become (N, height, width, C). The crop is torchvision's and FFCV's: up to 10
    tries of an area uniform in `scale` and an aspect log-uniform in `ratio`, else the largest centred crop
    within `ratio`. Directly behind `SimpleRGBImageDecoder` it is computed as that decoder's own crop (one
    resampling); behind anything else it is a second launch on the images as they are there, rounded to uint8.

    Parameters
    ----------
    scale : (float, float)
        Bounds of the crop's area as a share of the image's.
    ratio : (float, float)
        Bounds of width / height.
    size : int or (int, int)
        Output size in pixels: a side, or (height, width).
    resize : {"area", "antialias"}, keyword only
        Resampling filter; see `ffcv_gpu.fields.decoders`.

    Raises
    ------
    PipelineError
        If scale, ratio or size is out of range.
    """

    def __init__(
        self, scale: tuple[float, float], ratio: tuple[float, float], size: Any, *, resize: str = "area"
    ) -> None:
        self.scale = crop_range(scale, "RandomResizedCrop: scale", upper=1.0)
        self.ratio = crop_range(ratio, "RandomResizedCrop: ratio")
        self.size = output_pair(size, "RandomResizedCrop")
        self.resize = resize_name(resize, "RandomResizedCrop")

    def frame(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.size

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        return random_resized_crop(draws.uniform(draw, CROP_DRAWS), heights, widths, self.scale, self.ratio)

"""RandomResizedCrop as a transform: for images that a decoder has already cropped or left whole."""

from __future__ import annotations

from functools import partial
from typing import Any

from ffcv_gpu.crops import CROP_DRAWS, random_resized_crop
from ffcv_gpu.draws import Draws
from ffcv_gpu.steps import BoxArray, Checked, IntArray, Sampling, crop_range, output_pair, resize_name

__all__ = ["RandomResizedCrop"]


class RandomResizedCrop(Sampling):
    """Crop a random part of each image and resample it to one size.

    Images: (N, H, W, C) uint8 become (N, height, width, C). The crop is torchvision's and FFCV's: up to 10
    tries with an area uniform in `scale` and an aspect ratio log-uniform in `ratio`, else the largest centred
    crop within `ratio`. Directly after `SimpleRGBImageDecoder` it becomes that decoder's own crop (one
    resampling); after anything else it is a second launch, on the images so far, rounded to uint8.

    Parameters
    ----------
    scale : (float, float)
        Bounds of the crop's area as a share of the image's.
    ratio : (float, float)
        Bounds of width / height.
    size : int or (int, int)
        Output size in pixels: the side of a square, or (height, width).
    resize : {"area", "antialias"}, keyword only
        Filter: "area" is OpenCV's INTER_AREA, as in FFCV; "antialias" is Pillow's and torchvision's bilinear.

    Raises
    ------
    PipelineError
        If scale, ratio or size is out of range.
    """

    scale = Checked(partial(crop_range, upper=1.0))
    ratio = Checked(crop_range)
    size = Checked(output_pair)
    resize = Checked(resize_name)

    def __init__(
        self, scale: tuple[float, float], ratio: tuple[float, float], size: Any, *, resize: str = "area"
    ) -> None:
        self.scale, self.ratio, self.size, self.resize = scale, ratio, size, resize

    def frame(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.size

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        return random_resized_crop(draws.uniform(draw, CROP_DRAWS), heights, widths, self.scale, self.ratio)

"""Decoders of images: which part of each image is decoded, and to which size it is resampled.

The two resampling filters:

``resize="area"``
    FFCV's: equals OpenCV's INTER_AREA within one grey level (box average if both axes shrink, else linear
    with OpenCV's area coordinates).
``resize="antialias"``
    Equals Pillow's and torchvision's antialiased bilinear within one grey level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.crops import corner_crop
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError, SizesDiffer
from ffcv_gpu.fields.base import wrong_field
from ffcv_gpu.kernels.pass_codes import PASS_PAD
from ffcv_gpu.limits import too_many_pixels
from ffcv_gpu.steps import (
    BoxArray,
    Checked,
    Decoder,
    FloatArray,
    ImagePass,
    IntArray,
    Sampling,
    Source,
    ValueSpec,
    output_pair,
    resize_name,
    share,
)

__all__ = [
    "CornerCropRGBImageDecoder",
    "ImageDecoder",
    "PadRGBImageDecoder",
    "ResizedRGBImageDecoder",
    "SimpleRGBImageDecoder",
    "SizedDecoder",
    "whole_images",
]


class ImageDecoder(Decoder, Sampling):
    """Base of the image decoders: a crop of the source, resampled while it is copied.

    Output: (N, height, width, channels) of the field's dtype; (N, height, width, 3) uint8 for an
    `RGBImageField`.

    Raises
    ------
    PipelineError
        When the Loader is created, if the field holds no images.
    """

    def first_spec(self, source: Source) -> ValueSpec:
        """Return (height, width, channels) of the source's dtype; `PipelineError` if it holds no images."""
        if source.heights is None or source.widths is None:
            raise wrong_field(self, "images", source)
        height, width = self.frame() or self._source_size(source)
        return ValueSpec((height, width, source.channels), source.dtype, layout="HWC")

    def _source_size(self, source: Source) -> tuple[int, int]:
        heights, widths = source.heights, source.widths
        if heights is None or widths is None or heights.size == 0:
            return 1, 1
        if (heights != heights[0]).any() or (widths != widths[0]).any():
            raise SizesDiffer(
                f"{type(self).__name__} needs images of one size, but field {source.name!r} has heights "
                f"{heights.min()} to {heights.max()} and widths {widths.min()} to {widths.max()}; use "
                "RandomResizedCropRGBImageDecoder, CenterCropRGBImageDecoder or ResizedRGBImageDecoder"
            )
        return int(heights[0]), int(widths[0])


class SimpleRGBImageDecoder(ImageDecoder):
    """Decode whole images; the images of all the loader's samples must have the same size.

    Output: (N, height, width, 3) uint8. If `RandomResizedCrop` follows directly, the images may differ in
    size.

    Raises
    ------
    PipelineError
        When the Loader is created, if sizes differ or the field holds no images.
    """

    def frame(self) -> None:
        """Return None: the source's own size."""

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return the whole image for each sample."""
        return whole_images(heights, widths)


def whole_images(heights: IntArray, widths: IntArray) -> BoxArray:
    """Return boxes, int32 (N, 4), that contain the whole images."""
    zero = np.zeros_like(heights)
    return np.stack([zero, zero, heights, widths], axis=1).astype(np.int32)


class SizedDecoder(ImageDecoder):
    """Base of the decoders with an `output_size`.

    It and the other arguments may be assigned again between epochs; each takes effect at the next ``iter()``.
    """

    #: (height, width) in pixels
    output_size = Checked(output_pair)
    resize = Checked(resize_name)

    def __init__(self, output_size: Any, resize: str) -> None:
        self.output_size, self.resize = output_size, resize

    def frame(self) -> tuple[int, int]:
        """Return `output_size`."""
        return self.output_size


CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


class CornerCropRGBImageDecoder(SizedDecoder):
    """Decode a square in a corner of each image, resampled to one size (FFCV-SSL's ``CornerCrop``).

    Output: (N, height, width, 3) uint8. The square's side is ``int(ratio * min(height, width))``. (FFCV-SSL
    swaps top and bottom.)

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    ratio : float
        Side of the square as a share of the shorter side, in (0, 1].
    corner : {"top_left", "top_right", "bottom_left", "bottom_right"}
    resize : {"area", "antialias"}, keyword only
        Filter: "area" is OpenCV's INTER_AREA, as in FFCV; "antialias" is Pillow's and torchvision's bilinear.

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    ratio = Checked(share)

    def __init__(
        self, output_size: Any, ratio: float, corner: str = "top_left", *, resize: str = "area"
    ) -> None:
        super().__init__(output_size, resize)
        self.ratio = ratio
        if corner not in CORNERS:
            raise PipelineError(
                f"CornerCropRGBImageDecoder: corner must be one of {', '.join(CORNERS)}, not {corner!r}"
            )
        self.corner = corner

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        bottom, right = self.corner.startswith("bottom"), self.corner.endswith("right")
        return corner_crop(heights, widths, self.ratio, bottom=bottom, right=right)


class ResizedRGBImageDecoder(SizedDecoder):
    """Decode whole images, resampled to one size, whatever their shape: torchvision's ``Resize((h, w))``.

    Output: (N, height, width, 3) uint8. FFCV has no such decoder.

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    resize : {"area", "antialias"}, keyword only
        Filter: "area" is OpenCV's INTER_AREA; "antialias" is Pillow's and torchvision's bilinear.

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    def __init__(self, output_size: Any, *, resize: str = "area") -> None:
        super().__init__(output_size, resize)

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return the whole image for each sample."""
        return whole_images(heights, widths)


class PadRGBImageDecoder(SimpleRGBImageDecoder, ImagePass):
    """Decode whole images of different sizes, padded with 0 on the right and at the bottom (FFCV-SSL's).

    Output: (N, height, width, 3) uint8, with the largest height and the largest width in the file. It takes
    a separate launch.

    Raises
    ------
    PipelineError
        When the Loader is created, if the field holds no images, or that is too large (`ffcv_gpu.limits`).
    """

    kernel = PASS_PAD
    why = "pads images of different sizes to one"

    def first_spec(self, source: Source) -> ValueSpec:
        """Return the file's largest sides; `PipelineError` if `source` is not an image field."""
        if source.heights is None or source.widths is None:
            raise wrong_field(self, "images", source)
        sides = (source.heights, source.widths)
        if source.records is not None:
            sides = (source.records["height"], source.records["width"])
        height, width = (int(np.max(side, initial=1)) for side in sides)
        if words := too_many_pixels(height, width):
            raise PipelineError(f"{type(self).__name__} would pad the images of {source.name!r} to {words}")
        return ValueSpec((height, width, source.channels), "uint8", layout="HWC")

    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        """Return float64 (N, 0): no parameters."""
        return np.zeros((len(draws), 0))

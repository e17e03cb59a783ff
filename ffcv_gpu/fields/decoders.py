"""What FFCV's users put at the head of a pipeline: how a stored value is read.

These are descriptions; `ffcv_gpu.jpeg` turns JPEG bytes into pixels.

The two resampling filters of the image decoders:

``resize="area"``
    FFCV's: equal to OpenCV's INTER_AREA within one grey level (box average when both axes shrink, else
    linear with OpenCV's area coordinates).
``resize="antialias"``
    Equal to Pillow's and torchvision's antialiased bilinear within one grey level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.crops import CROP_DRAWS, center_crop, corner_crop, random_resized_crop
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.kernels.pass_codes import PASS_PAD
from ffcv_gpu.steps import (
    BoxArray,
    Decoder,
    FloatArray,
    ImagePass,
    IntArray,
    Sampling,
    Source,
    ValueSpec,
    crop_range,
    dtype_name,
    output_pair,
    resize_name,
)

__all__ = [
    "BytesDecoder",
    "CenterCropRGBImageDecoder",
    "CornerCropRGBImageDecoder",
    "FloatDecoder",
    "ImageDecoder",
    "IntDecoder",
    "NDArrayDecoder",
    "PadRGBImageDecoder",
    "RandomResizedCropRGBImageDecoder",
    "SimpleRGBImageDecoder",
]


class ImageDecoder(Decoder, Sampling):
    """Base of the decoders of images: a crop of the source, resampled while it is copied."""

    def first_spec(self, source: Source) -> ValueSpec:
        """Return (height, width, channels) of the source's dtype; `PipelineError` if it is no image."""
        if source.heights is None or source.widths is None:
            raise wrong_field(self, "images", source)
        height, width = self.frame() or self._source_size(source)
        return ValueSpec((height, width, source.channels), source.dtype, layout="HWC")

    def _source_size(self, source: Source) -> tuple[int, int]:
        heights, widths = source.heights, source.widths
        if heights is None or widths is None or heights.size == 0:
            return 1, 1
        if (heights != heights[0]).any() or (widths != widths[0]).any():
            raise PipelineError(
                f"{type(self).__name__} needs images of one size, but field {source.name!r} has heights "
                f"{heights.min()} to {heights.max()} and widths {widths.min()} to {widths.max()}; use "
                "RandomResizedCropRGBImageDecoder or CenterCropRGBImageDecoder"
            )
        return int(heights[0]), int(widths[0])


class SimpleRGBImageDecoder(ImageDecoder):
    """Decode whole images; all images of the loader's samples must have one size.

    Output: (N, height, width, 3) uint8. Followed directly by `RandomResizedCrop`, images may differ in
    size.
    """

    def frame(self) -> None:
        """Return None: the source's own size."""

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return the whole image for each sample."""
        zero = np.zeros_like(heights)
        return np.stack([zero, zero, heights, widths], axis=1).astype(np.int32)


class SizedDecoder(ImageDecoder):
    """Base of the decoders with an `output_size`, which may be reassigned between epochs."""

    def __init__(self, output_size: Any, resize: str) -> None:
        self.output_size = output_size
        self.resize = resize_name(resize, type(self).__name__)

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) in pixels; a new value takes effect at the next ``iter(loader)``."""
        return self._output_size

    @output_size.setter
    def output_size(self, size: Any) -> None:
        self._output_size = output_pair(size, type(self).__name__)

    def parameters(self) -> dict[str, Any]:
        """Return the constructor's arguments by name."""
        return {"output_size": self.output_size, **super().parameters()}

    def frame(self) -> tuple[int, int]:
        """Return `output_size`."""
        return self._output_size


class RandomResizedCropRGBImageDecoder(SizedDecoder):
    """Decode a random crop of each image, resampled to one size.

    Output: (N, height, width, 3) uint8. The crop is FFCV's and torchvision's: up to 10 tries of an area
    uniform in `scale` and an aspect log-uniform in `ratio`, else the largest centred crop within `ratio`.

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    scale : (float, float), default (0.08, 1.0)
        Bounds of the crop's area as a share of the image's.
    ratio : (float, float), default (3/4, 4/3)
        Bounds of width / height.
    resize : {"area", "antialias"}, keyword only

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    def __init__(
        self,
        output_size: Any,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        *,
        resize: str = "area",
    ) -> None:
        super().__init__(output_size, resize)
        self.scale = crop_range(scale, "RandomResizedCropRGBImageDecoder: scale", upper=1.0)
        self.ratio = crop_range(ratio, "RandomResizedCropRGBImageDecoder: ratio")

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        return random_resized_crop(draws.uniform(draw, CROP_DRAWS), heights, widths, self.scale, self.ratio)


class CenterCropRGBImageDecoder(SizedDecoder):
    """Decode the central square of each image, resampled to one size.

    Output: (N, height, width, 3) uint8. The square's side is ``int(ratio * min(height, width))``.

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    ratio : float
        Side of the square as a share of the shorter side, in (0, 1]; 224/256 is usual.
    resize : {"area", "antialias"}, keyword only

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    def __init__(self, output_size: Any, ratio: float, *, resize: str = "area") -> None:
        super().__init__(output_size, resize)
        self.ratio = crop_range((ratio, ratio), "CenterCropRGBImageDecoder: ratio", upper=1.0)[0]

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        return center_crop(heights, widths, self.ratio)


CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


class CornerCropRGBImageDecoder(SizedDecoder):
    """Decode a square in a corner of each image, resampled to one size (FFCV-SSL's ``CornerCrop``).

    Output: (N, height, width, 3) uint8. The square's side is ``int(ratio * min(height, width))``. (FFCV-SSL
    takes top for bottom.)

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    ratio : float
        Side of the square as a share of the shorter side, in (0, 1].
    corner : {"top_left", "top_right", "bottom_left", "bottom_right"}
    resize : {"area", "antialias"}, keyword only

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    def __init__(
        self, output_size: Any, ratio: float, corner: str = "top_left", *, resize: str = "area"
    ) -> None:
        super().__init__(output_size, resize)
        self.ratio = crop_range((ratio, ratio), "CornerCropRGBImageDecoder: ratio", upper=1.0)[0]
        if corner not in CORNERS:
            raise PipelineError(
                f"CornerCropRGBImageDecoder: corner must be one of {', '.join(CORNERS)}, not {corner!r}"
            )
        self.corner = corner

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        bottom, right = self.corner.startswith("bottom"), self.corner.endswith("right")
        return corner_crop(heights, widths, self.ratio, bottom=bottom, right=right)


class PadRGBImageDecoder(ImageDecoder, ImagePass):
    """Decode whole images of many sizes, filled up with 0 on the right and below (FFCV-SSL's).

    Output: (N, height, width, 3) uint8, the largest height and the largest width of the file. A launch of its
    own.
    """

    kernel = PASS_PAD
    why = "copies images of many sizes into one"

    def first_spec(self, source: Source) -> ValueSpec:
        """Return the file's largest sides; `PipelineError` if `source` is no image field."""
        if source.heights is None or source.widths is None:
            raise wrong_field(self, "images", source)
        sides = (source.heights, source.widths)
        if source.records is not None:
            sides = (source.records["height"], source.records["width"])
        height, width = (int(np.max(side, initial=1)) for side in sides)
        return ValueSpec((height, width, source.channels), "uint8", layout="HWC")

    def frame(self) -> None:
        """Return None: nothing is resampled."""

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return the whole image for each sample."""
        zero = np.zeros_like(heights)
        return np.stack([zero, zero, heights, widths], axis=1).astype(np.int32)

    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        """Return float64 (N, 0): there are none."""
        return np.zeros((len(draws), 0))


class _ScalarDecoder(Decoder):
    """Base of the decoders of one number a sample, kept in the file's metadata."""

    kind = ""
    dtype = ""

    def first_spec(self, source: Source) -> ValueSpec:
        """Return shape (1,); `PipelineError` if `source` holds no such numbers."""
        stored = getattr(source.field, "metadata_type", np.dtype("V1"))
        if np.dtype(stored) != np.dtype(self.dtype):
            raise wrong_field(self, f"{self.kind}s", source)
        return ValueSpec((1,), self.dtype)


class IntDecoder(_ScalarDecoder):
    """Read integers. Output: (N, 1) int64."""

    kind, dtype = "integer", "int64"


class FloatDecoder(_ScalarDecoder):
    """Read floating point numbers. Output: (N, 1) float64."""

    kind, dtype = "float", "float64"


class NDArrayDecoder(Decoder):
    """Read arrays of one shape and dtype. Output: (N, *shape) of the field's dtype."""

    def first_spec(self, source: Source) -> ValueSpec:
        """Return the field's shape and dtype; `PipelineError` if it has none."""
        shape, dtype = getattr(source.field, "shape", None), getattr(source.field, "dtype", None)
        if shape is None or dtype is None:
            raise wrong_field(self, "arrays", source)
        return ValueSpec(tuple(int(side) for side in shape), dtype_name(dtype))


class BytesDecoder(Decoder):
    """Read byte strings. Output: (N, longest of the file) uint8, rows filled up with zeros.

    (FFCV leaves the rest of a row undefined.)
    """

    def first_spec(self, source: Source) -> ValueSpec:
        """Return (longest payload,) uint8; `PipelineError` if `source` is no field of byte strings."""
        names = getattr(getattr(source.field, "metadata_type", None), "names", None)
        if not names or "size" not in names:
            raise wrong_field(self, "byte strings", source)
        return ValueSpec((source.max_bytes,), "uint8")


def wrong_field(decoder: Decoder, decodes: str, source: Source) -> PipelineError:
    """Return the error for a decoder at the head of a field that it cannot read."""
    kind = type(source.field).__name__
    return PipelineError(f"{type(decoder).__name__} decodes {decodes}, but field {source.name!r} is a {kind}")

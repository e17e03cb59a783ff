"""Decoders of images: which part of each image is decoded, and to which size it is resampled.

The two resampling filters:

``resize="area"``
    FFCV's: equals OpenCV's INTER_AREA within one grey level (box average if both axes shrink, else linear
    with OpenCV's area coordinates).
``resize="antialias"``
    Equals Pillow's and torchvision's antialiased bilinear within one grey level.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from ffcv_gpu.crops import CROP_DRAWS, center_crop, corner_crop, random_resized_crop
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.base import wrong_field
from ffcv_gpu.kernels.pass_codes import PASS_PAD
from ffcv_gpu.limits import too_many_pixels
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
    output_pair,
    resize_name,
    share,
)

__all__ = [
    "CenterCropRGBImageDecoder",
    "CornerCropRGBImageDecoder",
    "ImageDecoder",
    "PadRGBImageDecoder",
    "RandomResizedCropRGBImageDecoder",
    "ResizedCropRGBImageDecoder",
    "ResizedRGBImageDecoder",
    "SimpleRGBImageDecoder",
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
            raise PipelineError(
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


class ResizedCropRGBImageDecoder(SizedDecoder):
    """Base of decoders with a user-defined crop function, FFCV's extension point.

    Output: (N, height, width, 3) uint8. A subclass sets `scale` and `ratio` and implements the property
    `get_crop_generator`. Its function is compiled by numba and called once per sample while the batch is
    planned; the fused launch then crops and resamples the image, on a CPU or a GPU, as for any other decoder.

    ``np.random`` inside the function is reseeded for each sample, from the loader's seed, the epoch and the
    sample, so crops are reproducible whatever the batch size and the number of workers. (FFCV's cannot be
    seeded.) With ``Compiler.set_enabled(False)`` the function runs as plain Python and is not seeded.

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    resize : {"area", "antialias"}, keyword only
        Filter: "area" is OpenCV's INTER_AREA, as in FFCV; "antialias" is Pillow's and torchvision's bilinear.

    Attributes
    ----------
    scale, ratio
        Passed to the function: None, a number, or an array; tuples and lists arrive as arrays.

    Raises
    ------
    PipelineError
        If `output_size` is invalid, if numba cannot compile the function, or if a crop does not lie inside
        its image (FFCV then reads memory out of bounds).

    Examples
    --------
    >>> class LeftHalf(ResizedCropRGBImageDecoder):
    ...     @property
    ...     def get_crop_generator(self):
    ...         return lambda height, width, scale, ratio: (0, 0, height, max(1, width // 2))
    """

    scale: Any = None
    ratio: Any = None
    #: the property whose function is also a formula of `ffcv_gpu.crops`, for whole batches
    _formula: ClassVar[Any] = None
    _crops: Any = None

    def __init__(self, output_size: Any, *, resize: str = "area") -> None:
        super().__init__(output_size, resize)

    @property
    @abstractmethod
    def get_crop_generator(self) -> Any:
        """A function ``f(height, width, scale, ratio)`` that returns ``(i, j, h, w)``: row, column, size."""

    def parameters(self) -> dict[str, Any]:
        """Return the constructor's arguments by name, `resize` only if it is not the default."""
        given = super().parameters()
        return {name: value for name, value in given.items() if (name, value) != ("resize", "area")}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out machine code, which is compiled again where it is needed."""
        return {name: value for name, value in vars(self).items() if name != "_crops"}

    def own_crop(self) -> bool:
        """True if the crop is a user's function, to be called sample by sample."""
        return type(self).get_crop_generator is not type(self)._formula

    def first_spec(self, source: Source) -> ValueSpec:
        """Return (height, width, channels); the user's function is compiled now."""
        spec = super().first_spec(source)
        if self.own_crop():
            if self not in source.memo:
                source.memo[self] = compat_crops().CropFunction(self)
            self._crops = source.memo[self]
        return spec

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        self._crops = self._crops or compat_crops().CropFunction(self)
        boxes: BoxArray = self._crops.boxes(draws, draw, heights, widths)
        return boxes

    def remark(self) -> str:
        """Return how the crops are computed, for ``loader.explain()``."""
        return f"; crops by {self._crops.how}" if self._crops is not None else ""


def compat_crops() -> Any:
    """Return the module of a higher layer that compiles users' crop functions."""
    return importlib.import_module("ffcv_gpu.compat.crops")


class RandomResizedCropRGBImageDecoder(ResizedCropRGBImageDecoder):
    """Decode a random crop of each image, resampled to one size.

    Output: (N, height, width, 3) uint8. The crop is FFCV's and torchvision's: up to 10 tries with an area
    uniform in `scale` and an aspect ratio log-uniform in `ratio`, else the largest centred crop within
    `ratio`.

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    scale : (float, float), default (0.08, 1.0)
        Bounds of the crop's area as a share of the image's.
    ratio : (float, float), default (3/4, 4/3)
        Bounds of width / height.
    resize : {"area", "antialias"}, keyword only
        Filter: "area" is OpenCV's INTER_AREA, as in FFCV; "antialias" is Pillow's and torchvision's bilinear.

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
        super().__init__(output_size, resize=resize)
        self.scale = crop_range(scale, "RandomResizedCropRGBImageDecoder: scale", upper=1.0)
        self.ratio = crop_range(ratio, "RandomResizedCropRGBImageDecoder: ratio")

    @property
    def get_crop_generator(self) -> Any:
        """FFCV's function for this crop, which numba can compile; a subclass may return another."""
        return compat_crops().get_random_crop

    _formula = get_crop_generator

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        if self.own_crop():
            return super().boxes(draws, draw, heights, widths)
        return random_resized_crop(draws.uniform(draw, CROP_DRAWS), heights, widths, self.scale, self.ratio)


class CenterCropRGBImageDecoder(ResizedCropRGBImageDecoder):
    """Decode the central square of each image, resampled to one size.

    Output: (N, height, width, 3) uint8. The square's side is ``int(ratio * min(height, width))``.

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    ratio : float
        Side of the square as a share of the shorter side, in (0, 1]; typically 224/256.
    resize : {"area", "antialias"}, keyword only
        Filter: "area" is OpenCV's INTER_AREA, as in FFCV; "antialias" is Pillow's and torchvision's bilinear.

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    def __init__(self, output_size: Any, ratio: float, *, resize: str = "area") -> None:
        super().__init__(output_size, resize=resize)
        self.ratio = share(ratio, "CenterCropRGBImageDecoder: ratio")

    @property
    def get_crop_generator(self) -> Any:
        """FFCV's function for this crop, which numba can compile; a subclass may return another."""
        return compat_crops().get_center_crop

    _formula = get_crop_generator

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        if self.own_crop():
            return super().boxes(draws, draw, heights, widths)
        return center_crop(heights, widths, self.ratio)


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

    def __init__(
        self, output_size: Any, ratio: float, corner: str = "top_left", *, resize: str = "area"
    ) -> None:
        super().__init__(output_size, resize)
        self.ratio = share(ratio, "CornerCropRGBImageDecoder: ratio")
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

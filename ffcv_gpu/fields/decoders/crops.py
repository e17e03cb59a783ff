"""Decoders of crops: FFCV's own two, and their base, for crop functions of the user's own."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar

from ffcv_gpu.crops import CROP_DRAWS, center_crop, random_resized_crop
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders.images import SizedDecoder
from ffcv_gpu.steps import BoxArray, Checked, IntArray, Source, ValueSpec, crop_range, share

__all__ = ["CenterCropRGBImageDecoder", "RandomResizedCropRGBImageDecoder", "ResizedCropRGBImageDecoder"]


class CropBounds(Checked[Any]):
    """`scale` or `ratio` of a crop; a user's own crop function may take values of any kind."""

    def __set__(self, step: Any, value: Any) -> None:
        try:
            super().__set__(step, value)
        except PipelineError:
            if not step.own_crop():
                raise
            vars(step)[self._name] = value


class ResizedCropRGBImageDecoder(SizedDecoder):
    """Base of decoders with a user-defined crop function, FFCV's extension point.

    Output: (N, height, width, 3) uint8. A subclass sets `scale` and `ratio` and implements the property
    `get_crop_generator`. Its function is compiled by numba and called once per sample while the batch is
    planned; the fused launch then crops and resamples the image, on a CPU or a GPU, as for any other decoder.

    ``np.random`` and ``random`` inside the function are reseeded for each sample, from the loader's seed,
    the epoch and the sample, so crops are reproducible whatever the batch size and the number of workers.
    (FFCV's cannot be seeded.) With ``Compiler.set_enabled(False)`` the function runs as plain Python and is
    not seeded.

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
        boxes: BoxArray = self._crops.boxes(self, draws, draw, heights, widths)
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
    `ratio`. Its arguments may be assigned again (``decoder.output_size = ...``); new ones count from the next
    ``iter(loader)`` on.

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

    scale = CropBounds(partial(crop_range, upper=1.0))
    ratio = CropBounds(crop_range)

    def __init__(
        self,
        output_size: Any,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        *,
        resize: str = "area",
    ) -> None:
        super().__init__(output_size, resize=resize)
        self.scale, self.ratio = scale, ratio

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

    Output: (N, height, width, 3) uint8. The square's side is ``int(ratio * min(height, width))``. Its
    arguments may be assigned again; new ones count from the next ``iter(loader)`` on.

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

    ratio = CropBounds(share)

    def __init__(self, output_size: Any, ratio: float, *, resize: str = "area") -> None:
        super().__init__(output_size, resize=resize)
        self.ratio = ratio

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

"""FFCV-SSL's decoders: crops whose seeds decide whether they agree or differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.crops import CROP_DRAWS, crop_beside, random_resized_crop
from ffcv_gpu.draws import Draws, draw_id
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    CornerCropRGBImageDecoder,
    PadRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
)
from ffcv_gpu.steps import BoxArray, FloatArray, IntArray, Source, ValueSpec
from ffcv_gpu.transforms.base import Label, checked_seed

__all__ = ["CenterCrop", "CornerCrop", "LabelRandomResizedCrop", "PadRGBImageDecoder", "RandomResizedCrop"]

CenterCrop = CenterCropRGBImageDecoder
CornerCrop = CornerCropRGBImageDecoder


class RandomResizedCrop(RandomResizedCropRGBImageDecoder):
    """Decode a random crop of each image, resampled to one size. A decoder here, a transform in FFCV.

    Output: (N, height, width, 3) uint8. The crop is torchvision's (`RandomResizedCrop.get_params`);
    FFCV-SSL's is, by mistake, a square of a different area.

    Parameters
    ----------
    output_size : (int, int)
        (height, width) in pixels.
    scale : (float, float), default (0.08, 1.0)
        Bounds of the crop's area as a share of the image's.
    ratio : (float, float), default (3/4, 4/3)
        Bounds of width / height.
    seed : int, optional
        Crops with equal seeds are the same crop, whatever their output size; `LabelRandomResizedCrop`
        reports it.
    second_seed : int, optional
        Another crop's seed: this crop then lies beside that one, in the largest strip that it leaves (see
        `ffcv_gpu.crops.crop_beside`); both must have the same `scale` and `ratio`.
    resize : {"area", "antialias"}, keyword only
        Filter: "area" is OpenCV's INTER_AREA, as in FFCV; "antialias" is Pillow's and torchvision's bilinear.

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    draw_name = "crop"

    def __init__(
        self,
        output_size: Any,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        seed: int | None = None,
        second_seed: int | None = None,
        *,
        resize: str = "area",
    ) -> None:
        super().__init__(output_size, scale, ratio, resize=resize)
        self.seed = checked_seed(seed, "RandomResizedCrop")
        self.second_seed = checked_seed(second_seed, "RandomResizedCrop")
        if self.second_seed is not None and self.second_seed == self.seed:
            raise PipelineError(
                "RandomResizedCrop: seed and second_seed must differ: two crops, side by side"
            )

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width."""
        if self.second_seed is None:
            return super().boxes(draws, draw, heights, widths)
        other = draw_id("seed", self.draw_name, self.second_seed)
        taken = random_resized_crop(draws.uniform(other, CROP_DRAWS), heights, widths, self.scale, self.ratio)
        u = draws.uniform(draw, CROP_DRAWS)
        return crop_beside(u, taken, heights, widths, self.scale, self.ratio)


class LabelRandomResizedCrop(Label):
    """Report which crop the `RandomResizedCrop` with the same seed makes; reads no image.

    Output: (N, 6) int32: width and height of the image, then y, x, height, width of the crop in its pixels.
    It needs the image's size, so it must come first in an output of the image field:
    ``PipelineSpec("image", decoder=LabelRandomResizedCrop(...), transforms=[ToTensor()])``.

    Parameters
    ----------
    output_size, seed, scale, ratio, second_seed
        As for the `RandomResizedCrop`; `output_size` has no effect here.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if its `RandomResizedCrop` differs or
        it comes anywhere else.
    """

    columns, dtype = 6, "int32"

    def __init__(
        self,
        output_size: Any,
        seed: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        second_seed: int | None = None,
    ) -> None:
        self._crop = RandomResizedCrop(output_size, scale, ratio, seed, second_seed)
        super().__init__(self._crop)

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Any:
        """Return the step bound to its draw; `PipelineError` if `source` is not an image field."""
        if source.heights is None or spec.shape != () or spec.dtype != "int64":
            raise PipelineError(
                f"{self!r} needs the image's size; write PipelineSpec('image', "
                "decoder=LabelRandomResizedCrop(...), transforms=[ToTensor()]) with the image field's name"
            )
        return super().for_output(source, spec, draw)

    def told(self, draws: Draws, draw: int, source: Source) -> FloatArray:
        """Return (N, 6)."""
        sizes = (source.records[name][draws.samples].astype(np.int64) for name in ("width", "height"))
        widths, heights = sizes
        boxes = self._crop.boxes(draws, draw, heights, widths)
        return np.column_stack([widths, heights, boxes]).astype(np.float64)

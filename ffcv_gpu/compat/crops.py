"""Crops as FFCV's users write them: functions of one image's size that numba can compile.

`get_random_crop` and `get_center_crop` are FFCV's, for users' own operations; they draw from numpy's
generator (numba's in compiled code). `CropFunction` calls such a function for a batch. The loader's own crops
are those of `ffcv_gpu.crops`, whose random numbers are keyed by sample.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ffcv_gpu.compat.compiler import Compiler, readable_errors
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import BoxArray, IntArray

__all__ = ["CropFunction", "get_center_crop", "get_random_crop"]


class CropFunction:
    """The compiled crop function of a `ResizedCropRGBImageDecoder` subclass, called for whole batches.

    Parameters
    ----------
    decoder : ResizedCropRGBImageDecoder

    Attributes
    ----------
    how : str
        How the function runs, for ``loader.explain()``.

    Raises
    ------
    PipelineError
        If numba cannot compile the function for the decoder's `scale` and `ratio`.
    """

    def __init__(self, decoder: Any) -> None:
        self._function = Compiler.compile(decoder.get_crop_generator)
        compiled = hasattr(self._function, "py_func")
        self._loop = crop_loop() if compiled else crop_rows
        form = "compiled by numba, seeded for each sample" if compiled else "as uncompiled Python, unseeded"
        self.how = f"the decoder's own function, {form}, on the CPU while the batch is planned"
        none = np.zeros(0, np.int64)
        self._call(decoder, np.zeros(0, np.uint32), none, none)  # so that compile errors show now

    def boxes(self, decoder: Any, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return int32 (N, 4): y, x, height, width; `scale` and `ratio` are those of `decoder`.

        Raises
        ------
        PipelineError
            If a crop is not inside its image. The function's own exceptions propagate, with a note.
        """
        seeds = (draws.uniform(draw, 1)[:, 0] * 2**32).astype(np.uint32)
        boxes = self._call(decoder, seeds, heights, widths)
        y, x, h, w = boxes.T
        wrong = np.flatnonzero((y < 0) | (x < 0) | (h < 1) | (w < 1) | (y + h > heights) | (x + w > widths))
        if wrong.size:
            k = wrong[0]
            raise PipelineError(
                f"{decoder!r}: its crop function returned (i, j, h, w) = {tuple(boxes[k].tolist())} "
                f"for sample {draws.samples[k]}, an image of height {heights[k]} and width {widths[k]}: a "
                "crop must be inside the image and at least 1 x 1"
            )
        return boxes.astype(np.int32)

    def _call(self, decoder: Any, seeds: Any, heights: IntArray, widths: IntArray) -> IntArray:
        boxes = np.empty((len(seeds), 4), np.int64)
        bounds = (plain(decoder.scale), plain(decoder.ratio))
        way_out = "use only what numba supports"
        try:
            with readable_errors(f"{decoder!r}.get_crop_generator", way_out):
                self._loop(self._function, seeds, heights, widths, *bounds, boxes)
        except PipelineError:
            raise
        except BaseException as error:
            error.add_note(f"in the crop function of {decoder!r}")
            raise
        return boxes


def plain(bounds: Any) -> Any:
    """Return a tuple or list as an array, as FFCV does; anything else unchanged."""
    return np.array(bounds) if isinstance(bounds, tuple | list) else bounds


def crop_rows(
    function: Any, seeds: Any, heights: Any, widths: Any, scale: Any, ratio: Any, boxes: Any
) -> None:
    """Call `function` for each image, as Python."""
    for k in range(len(seeds)):
        boxes[k] = function(np.uint32(heights[k]), np.uint32(widths[k]), scale, ratio)


def crop_loop() -> Any:
    """Return a compiled `crop_rows` that seeds numba's generators of the calling thread before each call.

    Not cached: numba compiles it once per crop function, and a cached loop would keep all versions.
    """
    from numba import njit

    def loop(function, seeds, heights, widths, scale, ratio, boxes):  # type: ignore[no-untyped-def]
        for k in range(len(seeds)):
            np.random.seed(seeds[k])  # noqa: NPY002 (compiled: numba's own generators)
            random.seed(seeds[k])
            i, j, h, w = function(np.uint32(heights[k]), np.uint32(widths[k]), scale, ratio)
            boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = i, j, h, w

    return njit(nogil=True, error_model="numpy")(loop)


def get_random_crop(height: Any, width: Any, scale: Any, ratio: Any) -> tuple[int, int, int, int]:
    """Return a random crop ``(i, j, h, w)``: row, column, height, width in pixels.

    Makes up to 10 attempts with an area uniform in `scale` times the image's and an aspect ratio (width /
    height) log-uniform in `ratio`; if none fits, returns the largest centred crop whose aspect is within
    `ratio`.
    """
    area = height * width
    log_low, log_high = np.log(ratio[0]), np.log(ratio[1])
    for _ in range(10):
        target = area * np.random.uniform(scale[0], scale[1])  # noqa: NPY002 (numba supports no other)
        aspect = np.exp(np.random.uniform(log_low, log_high))  # noqa: NPY002
        w, h = int(np.rint(np.sqrt(target * aspect))), int(np.rint(np.sqrt(target / aspect)))
        if 0 < w <= width and 0 < h <= height:
            i = int(np.random.uniform(0, height - h + 1))  # noqa: NPY002
            j = int(np.random.uniform(0, width - w + 1))  # noqa: NPY002
            return i, j, h, w
    h, w = int(height), int(width)
    if width / height < ratio[0]:
        h = int(np.rint(width / ratio[0]))
    elif width / height > ratio[1]:
        w = int(np.rint(height * ratio[1]))
    return (int(height) - h) // 2, (int(width) - w) // 2, h, w


def get_center_crop(height: Any, width: Any, _: Any, ratio: Any) -> tuple[int, int, int, int]:
    """Return the centred square of side ``int(ratio * min(height, width))`` as ``(i, j, h, w)``."""
    side = int(ratio * min(height, width))
    return (int(height) - side) // 2, (int(width) - side) // 2, side, side

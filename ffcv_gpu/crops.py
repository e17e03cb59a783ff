"""Crop boxes: which rectangle of each source image is used; FFCV's formulas, for a whole batch.

Only arithmetic on sizes: the random numbers come from `ffcv_gpu.draws`, and `ffcv_gpu.compose` moves the
pixels. A box is (y, x, height, width) in source pixels, inside the image, at least 1 x 1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError

__all__ = [
    "CROP_DRAWS",
    "CROP_TRIES",
    "center_crop",
    "corner_crop",
    "crop_beside",
    "nearest_pixels",
    "random_resized_crop",
]

BoxArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CROP_TRIES = 10
#: uniforms per sample of `random_resized_crop`: y, x, then area and aspect of each try
CROP_DRAWS = 2 + 2 * CROP_TRIES


def random_resized_crop(
    u: FloatArray, heights: IntArray, widths: IntArray, scale: tuple[float, float], ratio: tuple[float, float]
) -> BoxArray:
    """Return a random crop of each image, of random area and aspect ratio.

    The first of up to 10 tries that fits into the image is used: area uniform in `scale` times the image's,
    width / height log-uniform in `ratio`, sides rounded half to even, at a uniformly random position. If none
    fits: the largest centred crop whose aspect ratio lies within `ratio`.

    Parameters
    ----------
    u : ndarray of float64, shape (N, >= CROP_DRAWS)
        Uniform in [0, 1): columns 0 and 1 place the box (y, x), 2 + 2t and 3 + 2t are area and aspect ratio
        of try t. Further columns are ignored.
    heights, widths : ndarray of int64, shape (N,)
        Sizes of the images in pixels, >= 1.
    scale : (float, float)
        Bounds of the crop's area as a share of the image's.
    ratio : (float, float)
        Bounds of width / height.

    Returns
    -------
    ndarray of int32, shape (N, 4)
        y, x, height, width; newly allocated. Where FFCV's fallback rounds a side to 0 (a ratio of 3 on an
        image one pixel wide), it is 1 here.

    Raises
    ------
    PipelineError
        If `u` has too few columns, or `scale` or `ratio` is not 0 < low <= high.
    """
    if u.ndim != 2 or u.shape[1] < CROP_DRAWS:
        raise PipelineError(f"random crop: needs (N, {CROP_DRAWS}) uniform numbers, got shape {u.shape}")
    _check_range("scale", scale)
    _check_range("ratio", ratio)
    boxes = np.empty((len(u), 4), dtype=np.int32)
    tall, wide = heights.astype(np.float64), widths.astype(np.float64)
    h, w, found = _first_fit(u, tall, wide, scale, ratio)
    boxes[:, 0] = u[:, 0] * (tall - h + 1)
    boxes[:, 1] = u[:, 1] * (wide - w + 1)
    boxes[:, 2], boxes[:, 3] = h, w
    if not found.all():
        rest = ~found
        boxes[rest] = _largest_centred(heights[rest], widths[rest], ratio)
    return boxes


def center_crop(heights: IntArray, widths: IntArray, ratio: float) -> BoxArray:
    """Return the centred square of each image whose side is `ratio` times the shorter side.

    Parameters
    ----------
    heights, widths : ndarray of int64, shape (N,)
        Sizes of the images in pixels, >= 1.
    ratio : float
        In (0, 1].

    Returns
    -------
    ndarray of int32, shape (N, 4)
        y, x, height, width; newly allocated. The side is rounded down, but is at least 1 (FFCV's can be 0).

    Raises
    ------
    PipelineError
        If `ratio` is out of range.
    """
    if not 0 < ratio <= 1:
        raise PipelineError(f"center crop: ratio must be in (0, 1], not {ratio!r}")
    side = np.maximum((ratio * np.minimum(heights, widths)).astype(np.int64), 1)
    return _centred(heights, widths, side, side)


def corner_crop(
    heights: IntArray, widths: IntArray, ratio: float, *, bottom: bool = False, right: bool = False
) -> BoxArray:
    """Return the square in a corner of each image, with the side of `center_crop`.

    Parameters
    ----------
    heights, widths, ratio
        As for `center_crop`.
    bottom, right : bool
        Which corner; the default is the top left.

    Returns
    -------
    ndarray of int32, shape (N, 4)
        y, x, height, width; newly allocated.

    Raises
    ------
    PipelineError
        If `ratio` is out of range.
    """
    boxes = center_crop(heights, widths, ratio)
    boxes[:, 0] = heights - boxes[:, 2] if bottom else 0
    boxes[:, 1] = widths - boxes[:, 3] if right else 0
    return boxes


def crop_beside(
    u: FloatArray,
    taken: BoxArray,
    heights: IntArray,
    widths: IntArray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> BoxArray:
    """Return a random crop of each image that does not overlap the box `taken`.

    The crop is a `random_resized_crop` of the largest of the four strips above, below, left and right of the
    box, or of the whole image where the box leaves no strip.

    Parameters
    ----------
    u, heights, widths, scale, ratio
        As for `random_resized_crop`; `scale` is a share of the strip's area.
    taken : ndarray of int32, shape (N, 4)
        y, x, height, width.

    Returns
    -------
    ndarray of int32, shape (N, 4)
        y, x, height, width; newly allocated.
    """
    y, x, h, w = taken.astype(np.int64).T
    zero = np.zeros_like(y)
    strips = np.stack(
        [
            np.stack([zero, zero, y, widths], axis=1),
            np.stack([y + h, zero, heights - y - h, widths], axis=1),
            np.stack([zero, zero, heights, x], axis=1),
            np.stack([zero, x + w, heights, widths - x - w], axis=1),
        ]
    )
    areas = strips[..., 2] * strips[..., 3]
    best = strips[areas.argmax(axis=0), np.arange(len(y))]
    whole = np.stack([zero, zero, heights, widths], axis=1)
    best = np.where(areas.max(axis=0)[:, None] > 0, best, whole)
    boxes = random_resized_crop(u, best[:, 2], best[:, 3], scale, ratio)
    boxes[:, :2] += best[:, :2].astype(np.int32)
    return boxes


def _check_range(name: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if not 0 < low <= high < math.inf:
        raise PipelineError(f"random crop: {name} must be (low, high) with 0 < low <= high, not {bounds!r}")


def _first_fit(
    u: FloatArray, tall: FloatArray, wide: FloatArray, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Return height and width of the first try that fits, and whether there is one (if not, they are 1)."""
    roots = np.sqrt(u[:, 2:CROP_DRAWS:2] * (scale[1] - scale[0]) + scale[0])
    roots *= np.sqrt(tall * wide)[:, None]
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    stretch = np.exp(u[:, 3:CROP_DRAWS:2] * (0.5 * (log_high - log_low)) + 0.5 * log_low)
    w = np.rint(roots * stretch)
    h = np.rint(np.divide(roots, stretch, out=roots))
    fits = (w <= wide[:, None]) & (h <= tall[:, None]) & (np.minimum(w, h) >= 1)
    first = fits.argmax(axis=1)
    rows = np.arange(len(u))
    found = fits[rows, first]
    return np.where(found, h[rows, first], 1.0), np.where(found, w[rows, first], 1.0), found


def _largest_centred(heights: IntArray, widths: IntArray, ratio: tuple[float, float]) -> BoxArray:
    aspect = widths / heights
    with np.errstate(over="ignore"):  # np.where computes both sides; the one not taken may be infinite
        h = np.where(aspect < ratio[0], np.rint(widths / ratio[0]), heights)
        w = np.where(aspect > ratio[1], np.rint(heights * ratio[1]), widths)
    return _centred(heights, widths, np.maximum(h, 1).astype(np.int64), np.maximum(w, 1).astype(np.int64))


def _centred(heights: IntArray, widths: IntArray, h: IntArray, w: IntArray) -> BoxArray:
    return np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1).astype(np.int32)


def nearest_pixels(size: int, out_size: int) -> IntArray:
    """Return the source pixel that has the centre of each of `out_size` pixels, int64, along one axis.

    As `kernels.resample.nearest_pixel`, for images that no kernel handles.
    """
    return (2 * np.arange(out_size, dtype=np.int64) + 1) * size // (2 * out_size)

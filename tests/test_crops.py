"""crops.py: torchvision's distribution and fallback, FFCV's formulas one sample at a time, bounds."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ffcv_gpu.crops import CROP_DRAWS, CROP_TRIES, center_crop, random_resized_crop
from ffcv_gpu.errors import PipelineError

stats = pytest.importorskip("scipy.stats")

IMAGENET = ((0.08, 1.0), (3 / 4, 4 / 3))
SIDE = st.integers(1, 65535)


def crop(
    u: npt.NDArray[np.float64],
    heights: list[int],
    widths: list[int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> npt.NDArray[np.int32]:
    return random_resized_crop(u, np.array(heights), np.array(widths), scale, ratio)


def torchvision_boxes(
    torchvision: ModuleType,
    sizes: list[tuple[int, int]],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> npt.NDArray[np.int64]:
    torch = pytest.importorskip("torch")
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return np.array(
            [get_params(torch.empty(1, h, w, device="meta"), list(scale), list(ratio)) for h, w in sizes]
        )


# ---- random resized crop against torchvision


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((375, 500), *IMAGENET),
        ((500, 375), (0.25, 1.0), (3 / 4, 4 / 3)),
        ((300, 1200), (0.08, 1.0), (3 / 4, 4 / 3)),  # many tries do not fit, some samples fall back
        ((256, 256), (0.08, 0.5), (0.2, 1.5)),
    ],
)
def test_distribution_is_torchvisions(
    torchvision: ModuleType, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    count = 3000
    u = np.random.default_rng(5).random((count, CROP_DRAWS))
    ours = crop(u, [size[0]] * count, [size[1]] * count, scale, ratio)
    theirs = torchvision_boxes(torchvision, [size] * count, scale, ratio)
    for what in (_area, _aspect, _free_y, _free_x):
        assert stats.ks_2samp(what(ours, size), what(theirs, size)).pvalue > 0.01, what.__name__


def _area(boxes: npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    return boxes[:, 2] * boxes[:, 3] / (size[0] * size[1])


def _aspect(boxes: npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    return boxes[:, 3] / boxes[:, 2]


def _free_y(boxes: npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    return boxes[:, 0] / (size[0] - boxes[:, 2] + 1)


def _free_x(boxes: npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    return boxes[:, 1] / (size[1] - boxes[:, 3] + 1)


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.5, 0.5), (1.5, 4.0)])
def test_fallback_is_torchvisions(torchvision: ModuleType, ratio: tuple[float, float]) -> None:
    sizes = np.random.default_rng(1).integers(5, 2000, (300, 2))
    sizes[:3] = [[5, 65535], [65535, 5], [100, 100]]
    heights, widths = sizes.T
    u = np.random.default_rng(2).random((len(sizes), CROP_DRAWS))
    ours = random_resized_crop(u, heights, widths, (9.0, 9.0), ratio)  # nine times the image never fits
    theirs = torchvision_boxes(torchvision, [tuple(s) for s in sizes.tolist()], (9.0, 9.0), ratio)
    assert (ours == theirs).all()


# ---- random resized crop against FFCV's formula, a sample at a time


def ffcv_box(
    u: npt.NDArray[np.float64],
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    for area_u, aspect_u in u[2:].reshape(-1, 2).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect_u)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u[0] * (height - h + 1)), int(u[1] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < min(ratio):
        h = round(width / min(ratio))
    elif width / height > max(ratio):
        w = round(height * max(ratio))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [IMAGENET, ((0.35, 1.0), (1.0, 1.0)), ((0.9, 1.0), (0.3, 3.0)), ((1.0, 1.0), (0.1, 0.2))],
)
def test_boxes_are_ffcvs(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(8, 1500, (800, 2))
    u = rng.random((800, CROP_DRAWS))
    ours = random_resized_crop(u, sizes[:, 0], sizes[:, 1], scale, ratio)
    theirs = [ffcv_box(u[n], *size, scale, ratio) for n, size in enumerate(sizes.tolist())]
    assert ours.tolist() == [list(box) for box in theirs]


def test_the_first_try_that_fits_wins() -> None:
    # Scale 1 fits a 100 x 100 image only as a square; aspect u = 0.5 is a square, others are not.
    u = np.full((1, CROP_DRAWS), 0.9)
    u[0, 3 + 2 * 9] = 0.5
    assert crop(u, [100], [100], (1.0, 1.0), (0.5, 2.0)).tolist() == [[0, 0, 100, 100]]
    u[0, 2:6] = [0.5, 0.9, 0.25, 0.5]  # try 0: too wide; try 1: a square of half the sides
    assert crop(u, [100], [100], (0.0001, 1.0), (0.01, 100.0)).tolist() == [[45, 45, 50, 50]]


def test_an_image_in_the_ratio_is_kept_whole_by_the_fallback() -> None:
    u = np.full((1, CROP_DRAWS), 0.999)
    assert crop(u, [90], [100], (1.0, 1.0), (3 / 4, 4 / 3)).tolist() == [[0, 0, 90, 100]]


def test_more_columns_are_ignored() -> None:
    u = np.random.default_rng(0).random((5, CROP_DRAWS + 3))
    sides = np.full(5, 200)
    more = random_resized_crop(u, sides, sides, *IMAGENET)
    assert (more == random_resized_crop(u[:, :CROP_DRAWS], sides, sides, *IMAGENET)).all()
    assert more.dtype == np.int32
    assert CROP_DRAWS == 2 + 2 * CROP_TRIES


# ---- inside the image, whatever is asked


@st.composite
def bounds(draw: st.DrawFn, low: float, high: float) -> tuple[float, float]:
    pair = sorted([draw(st.floats(low, high)), draw(st.floats(low, high))])
    return pair[0], pair[1]


@given(
    sizes=st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=8),
    scale=bounds(1e-12, 4.0),
    ratio=bounds(1e-6, 1e6)
    | bounds(0.5, 2.0)
    | st.sampled_from([(5e-324, 1e308), (1e308, 1e308), (3.0, 3.0)]),
    seed=st.integers(0, 2**32),
    edge=st.sampled_from([None, 0.0, 1 - 2.0**-53]),
)
def test_boxes_lie_inside(
    sizes: list[tuple[int, int]],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    seed: int,
    edge: float | None,
) -> None:
    heights, widths = np.array(sizes).T
    u = np.random.default_rng(seed).random((len(sizes), CROP_DRAWS))
    if edge is not None:
        u[:] = edge
    y, x, h, w = random_resized_crop(u, heights, widths, scale, ratio).T
    assert (np.minimum(h, w) >= 1).all()
    assert (np.minimum(y, x) >= 0).all()
    assert (y + h <= heights).all()
    assert (x + w <= widths).all()


def test_a_fallback_of_no_pixels_is_one_pixel() -> None:
    u = np.full((2, CROP_DRAWS), 0.5)
    boxes = crop(u, [1, 65535], [65535, 1], (1.0, 1.0), (1e5, 2e5))
    assert boxes.tolist() == [[0, 0, 1, 65535], [32767, 0, 1, 1]]


@pytest.mark.parametrize("bad", [(0.0, 1.0), (1.0, 0.5), (-1.0, 1.0), (0.1, math.inf), (math.nan, 1.0)])
def test_bad_bounds_raise(bad: tuple[float, float]) -> None:
    u = np.zeros((1, CROP_DRAWS))
    with pytest.raises(PipelineError, match="scale"):
        crop(u, [9], [9], bad, (1.0, 1.0))
    with pytest.raises(PipelineError, match="ratio"):
        crop(u, [9], [9], (0.5, 1.0), bad)


def test_too_few_numbers_raise() -> None:
    with pytest.raises(PipelineError, match="uniform"):
        crop(np.zeros((1, CROP_DRAWS - 1)), [9], [9], *IMAGENET)


# ---- centre crop


def test_center_crop_known() -> None:
    # By hand from FFCV's rule: 224 / 256 of 375 is 328.125.
    boxes = center_crop(np.array([375, 500, 256, 1]), np.array([500, 375, 256, 9]), 224 / 256)
    assert boxes.tolist() == [[23, 86, 328, 328], [86, 23, 328, 328], [16, 16, 224, 224], [0, 4, 1, 1]]
    assert boxes.dtype == np.int32


@given(height=SIDE, width=SIDE, ratio=st.floats(1e-9, 1.0))
def test_center_crop_is_ffcvs(height: int, width: int, ratio: float) -> None:
    side = int(ratio * min(height, width))
    assume(side > 0)
    expected = [(height - side) // 2, (width - side) // 2, side, side]
    assert center_crop(np.array([height]), np.array([width]), ratio).tolist() == [expected]


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.0001, math.nan])
def test_center_crop_bad_ratio(ratio: float) -> None:
    with pytest.raises(PipelineError, match="ratio"):
        center_crop(np.array([9]), np.array([9]), ratio)

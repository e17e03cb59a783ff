"""Planes Y, Cb, Cr at their own resolution beside libjpeg-turbo's RGB of the same JPEG, resampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import (
    KIND_GREY,
    KIND_YCBCR,
    RESAMPLE_ANTIALIAS,
    RESAMPLE_AREA,
    RESAMPLE_NEAREST,
    RESAMPLE_NONE,
    chroma_side,
    ycbcr_kind,
)
from tests.fake_nvjpeg_images import components, parse
from tests.kernels.launches import GREY, by_cpu, noise, pack

Pixels = npt.NDArray[np.uint8]
Maker = Callable[..., Any]

SHIFTS = {"444": (0, 0), "422": (0, 1), "420": (1, 1), "440": (1, 0), "411": (0, 2)}

#: mean, 99.9th percentile and largest difference, grey levels: libjpeg upsamples chroma to 8 bits before
#: it is resampled, we do not; and it does no more than repeat the pixels of 4:1:1
LIMITS = {
    "444": (0.25, 3, 20),
    "422": (0.42, 8, 30),
    "420": (0.50, 9, 38),
    "440": (0.40, 8, 45),
    "411": (1.00, 22, 55),
}


def decoded(photo: Pixels, subsampling: str) -> tuple[list[Pixels], Pixels]:
    """The planes of a JPEG of `photo`, and its RGB, both by libjpeg-turbo."""
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(photo), quality=90, colorsubsampling=subsampling)
    return components(data, parse(data, "end")), simplejpeg.decode_jpeg(data, "RGB")


def composed(
    planes: list[Pixels], shifts: tuple[int, int], box: Any, size: tuple[int, int], resample: int, **more: Any
) -> Pixels:
    layout = BlockLayout(1, *size, 3, resample=resample, ycbcr=True)
    launch = pack(layout, [planes], [box], shifts=[shifts], **more)
    return by_cpu(launch).reshape(*size, 3)


def by_opencv(image: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=cv2.INTER_AREA))


def check(found: list[npt.NDArray[Any]], subsampling: str) -> None:
    apart = np.concatenate([each.ravel() for each in found])
    mean, most, worst = LIMITS[subsampling]
    assert apart.mean() <= mean
    assert np.quantile(apart, 0.999) <= most
    assert apart.max() <= worst


@pytest.mark.parametrize("subsampling", SHIFTS)
@pytest.mark.parametrize("case", ["shrink", "enlarge", "one of each", "antialias", "copy"])
def test_beside_libjpeg_turbo_and_a_resize(make_photo: Maker, subsampling: str, case: str) -> None:
    """Odd boxes of odd images, so that chroma pixels are cut by the box and by the border."""
    found = []
    for seed in range(7):
        photo = make_photo(331 + seed, 405 - seed, seed)
        planes, rgb = decoded(photo, subsampling)
        y, x, h, w = 11 + seed, 5 + 2 * seed, 283 - seed, 351
        size = {"enlarge": (350, 420), "one of each": (200, 420), "copy": (h, w)}.get(case, (224, 224))
        resample = {"antialias": RESAMPLE_ANTIALIAS, "copy": RESAMPLE_NONE}.get(case, RESAMPLE_AREA)
        crop = rgb[y : y + h, x : x + w]
        expected = by_opencv(crop, size)
        if case == "antialias":
            expected = np.asarray(Image.fromarray(crop).resize(size[::-1], Image.Resampling.BILINEAR))
        got = composed(planes, SHIFTS[subsampling], (y, x, h, w), size, resample)
        found.append(np.abs(got.astype(int) - expected))
    check(found, subsampling)


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440"])
def test_a_copy_is_libjpegs_fancy_upsampling(make_photo: Maker, subsampling: str) -> None:
    """Without a resample chroma is enlarged by the same weights; only roundings differ."""
    planes, rgb = decoded(make_photo(120, 161, 1), subsampling)
    got = composed(planes, SHIFTS[subsampling], (0, 0, *rgb.shape[:2]), rgb.shape[:2], RESAMPLE_NONE)
    apart = np.abs(got.astype(int) - rgb)
    assert apart.max() <= 1
    assert apart.mean() <= 0.3


def test_grey_is_the_first_plane(make_photo: Maker) -> None:
    """And the conversion of grey is exact: equal to the resample of interleaved grey pixels."""
    planes, rgb = decoded(make_photo(120, 160), "420")
    luma = planes[0]
    got = composed([luma], (0, 0), (3, 5, 101, 131), (60, 70), RESAMPLE_AREA)
    layout = BlockLayout(1, 60, 70, 1)
    grey = by_cpu(pack(layout, [luma[..., None]], [(3, 5, 101, 131)])).reshape(60, 70, 1)
    assert np.array_equal(got, grey.repeat(3, axis=2))
    one = by_cpu(pack(BlockLayout(1, 60, 70, 1, ycbcr=True), [planes], [(3, 5, 101, 131)], shifts=[(1, 1)]))
    assert np.array_equal(one.reshape(60, 70, 1), grey)
    assert rgb.shape[:2] == luma.shape


@pytest.mark.parametrize("resample", [RESAMPLE_AREA, RESAMPLE_ANTIALIAS, RESAMPLE_NEAREST])
def test_mirrors_and_shifts(resample: int) -> None:
    rng = np.random.default_rng(0)
    planes = noise(rng, 41, 37, 3, (1, 1))
    for size in ((12, 10), (55, 66), (12, 66)):
        plain = composed(planes, (1, 1), (2, 3, 35, 33), size, resample)
        height, width = size
        for geometry, expected in (
            ([-1, height - 1, 1, 0], plain[::-1]),
            ([1, 0, -1, width - 1], plain[:, ::-1]),
            ([1, 3, 1, -2], np.pad(plain, ((0, 3), (2, 0), (0, 0)), mode="reflect")[3:, :width]),
        ):
            got = composed(planes, (1, 1), (2, 3, 35, 33), size, resample, geometry=[geometry])
            assert np.array_equal(got, expected)


@pytest.mark.parametrize("shifts", [(0, 0), (0, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("resample", [RESAMPLE_AREA, RESAMPLE_ANTIALIAS, RESAMPLE_NEAREST])
def test_a_plain_image_stays_plain(shifts: tuple[int, int], resample: int) -> None:
    """At every box and border weights add up to 1: one colour comes out."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        sides = rng.integers(1, 40, 2)
        box = rng.integers(1, sides + 1)
        corner = rng.integers(0, sides - box + 1)
        size = tuple(rng.integers(1, 30, 2).tolist())
        small = chroma_side(int(sides[0]), shifts[0]), chroma_side(int(sides[1]), shifts[1])
        planes = [np.full(sides, 90, np.uint8), np.full(small, 100, np.uint8), np.full(small, 181, np.uint8)]
        got = composed(planes, shifts, (*corner, *box), size, resample)
        assert np.array_equal(np.unique(got.reshape(-1, 3), axis=0), [[164, 62, 40]]), (sides, box, size)


def test_kinds() -> None:
    assert ycbcr_kind(1, 2) & KIND_YCBCR
    assert not ycbcr_kind(1, 2) & KIND_GREY
    assert [chroma_side(5, shift) for shift in range(4)] == [5, 3, 2, 1]
    with pytest.raises(ValueError, match="0 to 3"):
        ycbcr_kind(4, 0)


@pytest.mark.parametrize("column", [2, 3, 5, 7])
def test_planes_outside_their_memory_are_refused(column: int) -> None:
    rng = np.random.default_rng(0)
    layout = BlockLayout(1, 8, 8, 3, ycbcr=True)
    launch = pack(layout, [noise(rng, 20, 20, 3, (1, 1))], [(0, 0, 20, 20)], shifts=[(1, 1)])
    launch.layout.read(launch.block).table[0, column] += 100_000
    with pytest.raises(ValueError, match=r"outside its pixels|too large"):
        by_cpu(launch)


def test_grey_planes_need_no_others() -> None:
    rng = np.random.default_rng(0)
    layout = BlockLayout(1, 8, 8, 3, ycbcr=True)
    launch = pack(layout, [noise(rng, 20, 20, 3, GREY)], [(0, 0, 20, 20)])
    launch.layout.read(launch.block).table[0, 2:4] = 1 << 40
    assert by_cpu(launch).size == 192

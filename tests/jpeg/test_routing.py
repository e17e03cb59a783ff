"""Routes against the guide's table, row by row, and against a plain chain of ifs over random facts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ffcv_gpu.format import JPEG_FACTS, JpegFlag
from ffcv_gpu.jpeg import routing
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.jpeg.routing import (
    NO_ROUTE,
    GpuDecoders,
    Route,
    choose_routes,
    constant_batch,
    decode_order,
    join_small_share,
    next_routes,
)
from tests.fake_nvjpeg import GPU_HUFFMAN_ABOVE

H200, T4 = GpuDecoders(lanes=7), GpuDecoders()
PLAIN = (2, 0xC0, 3, 0, 0)
ENGINE, HUFFMAN, GPU, HYBRID, CPU = Route


def route(row: tuple[int, ...], height: int, width: int, gpu: GpuDecoders, length: int = 1000) -> int:
    sizes = (np.array([side], np.uint16) for side in (height, width))  # as the file's metadata has them
    facts = np.array([row], JPEG_FACTS)
    return int(choose_routes(facts, *sizes, np.array([length]), gpu=gpu)[0])


# (facts, height, width) -> with engine, without: the guide's table 4.8, each row and its neighbours
TABLE: dict[str, tuple[tuple[int, ...], int, int, Route, Route]] = {
    "not a JPEG": ((-1, 0, 0, 0, 0), 375, 500, CPU, CPU),
    "arithmetic": ((2, 0xC9, 3, 0, 0), 375, 500, CPU, CPU),
    "arithmetic progressive": ((2, 0xCA, 3, 0, 0), 375, 500, CPU, CPU),
    "lossless": ((0, 0xC3, 3, 0, 0), 375, 500, CPU, CPU),
    "hierarchical": ((0, 0xC5, 3, 0, 0), 375, 500, CPU, CPU),
    "two components": ((-1, 0xC0, 2, 0, 0), 375, 500, CPU, CPU),
    "CMYK": ((0, 0xC0, 4, 0, JpegFlag.CMYK), 375, 500, CPU, CPU),
    "CMYK, progressive": ((0, 0xC2, 4, 0, JpegFlag.CMYK), 375, 500, CPU, CPU),
    "progressive": ((2, 0xC2, 3, 0, 0), 375, 500, HYBRID, HYBRID),
    "progressive, large": ((2, 0xC2, 3, 0, 0), 3000, 2000, HYBRID, HYBRID),
    "multi-scan": ((0, 0xC0, 3, 0, JpegFlag.MULTI_SCAN), 375, 500, HYBRID, HYBRID),
    "multi-scan, RGB": ((0, 0xC0, 3, 0, JpegFlag.MULTI_SCAN | JpegFlag.RGB_CODED), 9, 9, CPU, CPU),
    "progressive, RGB": ((0, 0xC2, 3, 0, JpegFlag.RGB_CODED), 375, 500, CPU, CPU),
    "RGB-coded": ((0, 0xC0, 3, 0, JpegFlag.RGB_CODED), 375, 500, CPU, CPU),
    "extended": ((2, 0xC1, 3, 0, 0), 375, 500, ENGINE, HUFFMAN),
    "4:1:1": ((4, 0xC0, 3, 0, 0), 375, 500, HUFFMAN, HUFFMAN),
    "4:1:0": ((5, 0xC0, 3, 0, 0), 375, 500, HUFFMAN, HUFFMAN),
    "other factors": ((-1, 0xC0, 3, 0, 0), 375, 500, HUFFMAN, HUFFMAN),
    "4:1:1, wide": ((4, 0xC0, 3, 0, 0), 20, 20_000, HUFFMAN, HUFFMAN),
    "wide": (PLAIN, 20, 16_385, GPU, GPU),
    "tall": (PLAIN, 16_385, 20, GPU, GPU),
    "not too wide": (PLAIN, 20, 16_384, ENGINE, HUFFMAN),
    "area": (PLAIN, 2001, 2000, GPU, GPU),
    "area, its product beyond 32 bits": (PLAIN, 15_999, 15_999, GPU, GPU),
    "not too large": (PLAIN, 2000, 2000, ENGINE, HUFFMAN),
    "low": (PLAIN, 1, 500, ENGINE, HUFFMAN),
    "narrow": (PLAIN, 500, 1, ENGINE, HUFFMAN),
    "a pixel": (PLAIN, 1, 1, ENGINE, HUFFMAN),
    **{f"plain {css}": ((css, 0xC0, 3, 0, 0), 375, 500, ENGINE, HUFFMAN) for css in (0, 1, 2, 3)},
    "grey": ((6, 0xC0, 1, 0, 0), 375, 500, ENGINE, HUFFMAN),
    "restart markers": ((2, 0xC0, 3, 0, JpegFlag.RESTART), 375, 500, ENGINE, HUFFMAN),
    "checked, EXIF": ((2, 0xC0, 3, 6, JpegFlag.DECODE_CHECKED), 375, 500, ENGINE, HUFFMAN),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_guides_table(name: str) -> None:
    row, height, width, with_engine, without = TABLE[name]
    assert route(row, height, width, H200) == with_engine
    assert route(row, height, width, T4) == without


def test_no_bytes_and_failed_checks_go_to_the_cpu() -> None:
    assert route(PLAIN, 375, 500, H200, length=0) == CPU
    facts = np.array([PLAIN] * 3, JPEG_FACTS)
    size, usable = np.full(3, 400), np.array([True, False, True])
    routes = choose_routes(facts, size, size, size, gpu=H200, usable=usable)
    assert routes.tolist() == [ENGINE, CPU, ENGINE]
    assert usable.tolist() == [True, False, True]
    assert routes.dtype == np.int8


def test_photographs_all_take_the_engine(imagenet_jpegs: list[Any]) -> None:
    headers = [scan_jpeg(path.read_bytes()) for path in imagenet_jpegs[::5]]
    columns = [(h.subsampling, h.encoding, h.components, h.exif_orientation, h.flags) for h in headers]
    heights, widths = (np.array([h[k] for h in headers]) for k in (0, 1))
    routes = choose_routes(np.array(columns, JPEG_FACTS), heights, widths, heights, gpu=H200)
    fits = heights * widths <= H200.max_pixels
    assert (routes[fits] == ENGINE).all()  # as the guide found for its thousand
    assert (routes[~fits] == GPU).all()
    assert fits.mean() > 0.9


def by_ifs(row: Any, height: int, width: int, length: int, gpu: GpuDecoders) -> Route:
    single = GPU if height * width >= gpu.large_pixels else HYBRID
    if row["encoding"] not in (0xC0, 0xC1, 0xC2) or row["components"] not in (1, 3, 4):
        return CPU
    if min(height, width, length) < 1 or row["flags"] & JpegFlag.CMYK or row["components"] == 4:
        return CPU
    if row["flags"] & JpegFlag.RGB_CODED:
        return CPU
    if row["encoding"] == 0xC2 or row["flags"] & JpegFlag.MULTI_SCAN:
        return HYBRID
    if row["subsampling"] not in (0, 1, 2, 3, 6):
        return HUFFMAN
    if max(height, width) > gpu.max_side:
        return GPU
    if height * width > gpu.max_pixels:
        return single
    return HUFFMAN if min(height, width) < gpu.min_side or not gpu.lanes else ENGINE


GPUS = st.builds(
    GpuDecoders,
    lanes=st.sampled_from([0, 1, 5, 7]),
    min_side=st.sampled_from([1, 16, 64]),
    max_side=st.sampled_from([800, 16_384]),
    max_pixels=st.sampled_from([10_000, 4_000_000]),
    large_pixels=st.sampled_from([20_000, 1_000_000]),
)
FACTS = st.tuples(
    st.sampled_from([-1, 0, 1, 2, 2, 2, 3, 4, 5, 6]),
    st.sampled_from([0, 0xC0, 0xC0, 0xC0, 0xC1, 0xC2, 0xC9]),
    st.sampled_from([1, 2, 3, 3, 3, 4]),
    st.integers(0, 8),
    st.sampled_from([0, 0, 0, *JpegFlag]),
)
SIDES = st.sampled_from([0, 1, 15, 16, 63, 100, 375, 500, 1000, 2000, 16_384, 16_385, 65_535])
IMAGES = st.lists(st.tuples(FACTS, SIDES, SIDES, st.sampled_from([0, 1, 110_000])), max_size=30)


@given(IMAGES, GPUS)
def test_all_at_once_is_each_by_itself(images: list[Any], gpu: GpuDecoders) -> None:
    facts = np.array([image[0] for image in images], JPEG_FACTS)
    heights, widths, lengths = (np.array([image[k] for image in images], np.uint32) for k in (1, 2, 3))
    routes = choose_routes(facts, heights, widths, lengths, gpu=gpu)
    expected = [by_ifs(row, *image[1:], gpu) for row, image in zip(facts, images, strict=True)]
    assert routes.tolist() == expected


# ---- shares of a batch


@pytest.mark.parametrize("gpu", [H200, T4])
@pytest.mark.parametrize("share", [0, 1, 50, 51, 200])
def test_a_share_that_nvjpeg_would_decode_on_the_cpu_is_decoded_one_by_one(
    share: int, gpu: GpuDecoders
) -> None:
    routes = np.array([ENGINE] * 60 + [HUFFMAN] * share + [CPU, GPU, HYBRID] * 20, np.int8)
    sides = np.full(routes.size, 999, np.uint16)
    sides[60::2] = 1000
    before = routes.copy()
    joined = join_small_share(routes, sides, np.full(routes.size, 1000), gpu=gpu)
    small = share <= GPU_HUFFMAN_ABOVE
    assert (joined == HUFFMAN).sum() == (0 if small else share)
    others = np.r_[0:60, 60 + share : routes.size]
    np.testing.assert_array_equal(joined[others], routes[others])
    if small and share:
        expected = np.where(sides[60 : 60 + share] == 1000, GPU, HYBRID)
        np.testing.assert_array_equal(joined[60 : 60 + share], expected)
    np.testing.assert_array_equal(routes, before)
    assert joined.dtype == np.int8


def test_the_threshold_is_the_librarys() -> None:
    assert routing.HUFFMAN_MAX_SHARE == GPU_HUFFMAN_ABOVE
    assert constant_batch(1, gpu=GpuDecoders(huffman_batch=1)) == GPU_HUFFMAN_ABOVE + 1


@pytest.mark.parametrize(("images", "batch"), [(1, 64), (64, 64), (250, 250)])
def test_constant_batch(images: int, batch: int) -> None:
    assert constant_batch(images, gpu=GpuDecoders()) == batch


# ---- after a failure


def test_every_route_ends_with_the_cpu_and_then_with_nothing() -> None:
    routes = np.repeat(np.array(Route, np.int8), 2)
    sides = np.tile(np.array([999, 1000], np.uint16), 5)
    wide = np.full(10, 1000, np.uint16)
    once = next_routes(routes, sides, wide, gpu=H200)
    assert once.tolist() == [HYBRID, GPU, HYBRID, GPU, *[CPU] * 4, *[NO_ROUTE] * 2]
    twice = next_routes(once, sides, wide, gpu=H200)
    assert twice.tolist() == [*[CPU] * 4, *[NO_ROUTE] * 6]
    for _ in range(2):
        twice = next_routes(twice, sides, wide, gpu=H200)
    assert (twice == NO_ROUTE).all()
    assert twice.dtype == np.int8


# ---- order within a batch


@given(arrays.arrays(np.int64, st.tuples(st.integers(0, 60), st.just(3)), elements=st.integers(0, 7)))
def test_order_is_by_group_then_largest_first(drawn: npt.NDArray[np.int64]) -> None:
    facts = np.zeros(len(drawn), JPEG_FACTS)
    facts["subsampling"] = drawn[:, 0] - 1  # from -1, unknown
    heights, widths = (
        drawn[:, k].astype(np.uint16) * 10_000 for k in (1, 2)
    )  # products beyond 16 and 31 bits
    order = decode_order(facts, heights, widths)

    def rank(k: int) -> tuple[int, int]:
        css = int(facts["subsampling"][k])
        return {-1: 7, 6: 0}.get(css, css), -int(heights[k]) * int(widths[k])

    assert order.tolist() == sorted(range(len(drawn)), key=rank)  # both are stable
    assert Counter(order.tolist()) == Counter(range(len(drawn)))
    assert order.dtype == np.int64

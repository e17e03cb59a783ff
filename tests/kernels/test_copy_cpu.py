"""Gathering copies against numpy's slices."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.kernels.copy_cpu import copy_memory, copy_ranges, copy_windows, spread_windows


def frozen(array):
    array.flags.writeable = False
    return array


@pytest.fixture(scope="module")
def stored():
    return frozen(np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8))


def test_ranges_lie_one_behind_the_other(stored):
    offsets, lengths = np.array([19_000, 5, 0, 500]), np.array([1000, 1, 0, 3000])
    out = np.zeros(4010, np.uint8)
    copy_ranges(stored, offsets, lengths, out)
    expected = np.concatenate([stored[o : o + n] for o, n in zip(offsets, lengths, strict=True)])
    assert np.array_equal(out[:4001], expected) and not out[4001:].any()


@pytest.mark.parametrize(("offset", "length"), [(-1, 4), (19_999, 2), (0, -1), (0, 101)])
def test_ranges_that_do_not_fit(stored, offset, length):
    with pytest.raises(ValueError, match="copy_ranges"):
        copy_ranges(stored, np.array([offset]), np.array([length]), np.zeros(100, np.uint8))


def test_pieces_of_memory():
    rng = np.random.default_rng(2)
    pieces = [rng.integers(0, 256, size, np.uint8) for size in (1000, 0, 1, 77_777)]
    addresses = np.array([piece.ctypes.data for piece in pieces], np.uint64)
    lengths, starts = np.array([piece.size for piece in pieces]), np.array([78_000, 3, 78_999, 5])
    out = np.zeros(79_000, np.uint8)
    copy_memory(addresses, lengths, out, starts, 1, 4)
    expected = np.zeros(79_000, np.uint8)
    expected[78_999:], expected[5 : 5 + 77_777] = pieces[2], pieces[3]
    assert np.array_equal(out, expected)
    for wrong in ((-1, 1), (0, 5)):
        with pytest.raises(ValueError, match="copy_memory"):
            copy_memory(addresses, lengths, out, starts, *wrong)
    for length, start in ((4, -1), (4, 78_997), (-1, 0)):
        with pytest.raises(ValueError, match="copy_memory"):
            copy_memory(addresses[:1], np.array([length]), out, np.array([start]), 0, 1)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("pixel_bytes", [1, 3, 4])
def test_windows_are_rows_without_padding(stored, pixel_bytes):
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 40, (5, 2))
    lengths = sizes.prod(axis=1) * pixel_bytes
    offsets = np.cumsum(lengths) - lengths
    first = (rng.random((5, 2)) * sizes).astype(int)
    windows = np.concatenate([first, np.maximum((sizes - first) // 2, 1)], axis=1).astype(np.int32)
    areas = windows[:, 2].astype(np.int64) * windows[:, 3] * pixel_bytes
    starts = np.cumsum(areas + 7) - areas - 7
    out = np.full(int((areas + 7).sum()), 0xA5, np.uint8)
    copy_windows(stored, offsets, sizes[:, 1] * pixel_bytes, windows, pixel_bytes, out, starts)
    for offset, (height, width), (y, x, h, w), start, area in zip(
        offsets, sizes, windows, starts, areas, strict=True
    ):
        image = stored[offset : offset + height * width * pixel_bytes].reshape(height, width, pixel_bytes)
        assert np.array_equal(out[start : start + area], image[y : y + h, x : x + w].ravel())
        assert (out[start + area : start + area + 7] == 0xA5).all()


@pytest.mark.parametrize(
    ("window", "start"), [((-1, 0, 2, 2), 0), ((9, 0, 2, 10), 0), ((0, 0, 2, 2), -1), ((0, 0, 5, 10), 90)]
)
def test_windows_that_do_not_fit(window, start):
    image, windows = frozen(np.zeros(300, np.uint8)), np.array([window], np.int32)
    with pytest.raises(ValueError, match="copy_windows"):
        copy_windows(
            image, np.zeros(1, int), np.array([30]), windows, 3, np.zeros(100, np.uint8), np.array([start])
        )


# ---- spread_windows


def spread(memory, start, window, cut, pitch):
    columns = (np.array([[*each]], np.int64) for each in (window, cut))
    spread_windows(memory, np.array([start]), *columns, np.array([pitch]), 3)


def test_rectangles_are_moved_to_where_they_are_in_the_larger_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 30, 2).tolist()
        rows, across = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - across + 1))
        h, w = int(rng.integers(1, rows + 1)), int(rng.integers(1, across + 1))
        y, x = top + int(rng.integers(rows - h + 1)), left + int(rng.integers(across - w + 1))
        part = rng.integers(0, 256, (rows, across, 3), np.uint8)
        memory = np.full(7 + 3 * height * width + 5, 77, np.uint8)
        memory[7 : 7 + part.size] = part.reshape(-1)
        spread(memory, 7, [y, x, h, w], [top, left, rows, across], 3 * width)
        image = memory[7:-5].reshape(height, width, 3)
        expected = part[y - top :, x - left :][:h, :w]
        np.testing.assert_array_equal(image[y : y + h, x : x + w], expected)
        assert (memory[:7] == 77).all() and (memory[-5:] == 77).all()


@pytest.mark.parametrize(
    ("window", "cut", "pitch"),
    [
        ([0, 0, 3, 3], [1, 0, 4, 4], 30), ([0, 0, 3, 3], [0, 1, 4, 4], 30), ([2, 2, 3, 3], [0, 0, 4, 9], 30),
        ([2, 2, 3, 3], [0, 0, 9, 4], 30), ([0, 0, 3, 3], [0, 0, 4, 4], 11), ([0, 0, 9, 3], [0, 0, 9, 4], 400),
        ([-1, 0, 2, 2], [-1, 0, 4, 4], 30),
    ],
)  # fmt: skip
def test_rectangles_that_do_not_fit_are_not_moved(window, cut, pitch):
    memory = np.full(400, 77, np.uint8)
    with pytest.raises(ValueError, match="spread_windows"):
        spread(memory, 10, window, cut, pitch)
    assert (memory == 77).all()

"""The last steps against numpy: the table, the layouts, and what is overwritten before and after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcv_gpu.kernels.codes import (
    ERASE_INSIDE,
    ERASE_OUTSIDE,
    RESAMPLE_AREA,
    RESAMPLE_NONE,
    scratch_size,
)
from tests.kernels.test_shell_cpu import SOME, Composer, random_images, whole

BITS = {"uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32}


def random_table(channels: int, bits: str) -> npt.NDArray[Any]:
    rng = np.random.default_rng(7)
    return rng.integers(0, np.iinfo(BITS[bits]).max, (channels, 256), dtype=BITS[bits], endpoint=True)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_table_and_layout(compose_batch: Composer, channels: int, bits: str, planar: bool) -> None:
    images, table = random_images(3, channels), random_table(channels, bits)
    got = compose_batch(images, whole(images), (19, 23), RESAMPLE_AREA, lut=table, planar=planar)
    values = compose_batch(images, whole(images), (19, 23), RESAMPLE_AREA)
    expected = np.stack([table[c][values[..., c]] for c in range(channels)], axis=1 if planar else -1)
    assert got.dtype == BITS[bits]
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_normalised_bits_are_numpys(compose_batch: Composer, dtype: Any) -> None:
    mean, std = np.array([123.7, 116.3, 103.5]), np.array([58.4, 57.1, 57.4])
    image = random_images(1)[0]
    table = ((np.arange(256) - mean[:, None]) / std[:, None]).astype(dtype)
    bits = table.view(np.uint16 if dtype is np.float16 else np.uint32)
    got = compose_batch([image], whole([image]), image.shape[:2], RESAMPLE_NONE, lut=bits, planar=True)
    expected = ((image.astype(np.float64) - mean) / std).astype(dtype)
    assert np.array_equal(got.view(dtype)[0], expected.transpose(2, 0, 1))


def test_any_strides(compose_batch: Composer) -> None:
    """Rows with gaps between them (here: every other column of a wider output) take the general loops."""
    from ffcv_gpu.kernels.shell_cpu import compose

    image = random_images(1)[0]
    height, width = image.shape[:2]
    expected = compose_batch([image], whole([image]), (height, width), RESAMPLE_NONE)[0]
    out = np.zeros((height, width, 2, 4), np.uint8)
    pixels = image.ravel()
    pixels.flags.writeable = False
    compose(
        pixels, pixels, np.array([[0, 0, 0, 0, width * 3, 0, height, width]]),
        np.array([[0, 0, height, width]], np.int32), np.array([[1, 0, 1, 0]], np.int32),
        np.zeros((1, 0), np.float32), np.zeros((0, 2), np.int32), np.zeros((0, 4), np.uint32), 0,
        np.tile(np.arange(256, dtype=np.uint8), (3, 1)), out.reshape(-1),
        np.array([*out[None].strides[:3], 1]), height, width, RESAMPLE_NONE,
        np.empty(scratch_size(height, width, height, width, 3), np.float32), 0, 1,
    )  # fmt: skip
    assert np.array_equal(out[:, :, 0, :3], expected)
    assert not out[:, :, 1].any()
    assert not out[:, :, :, 3].any()


def reference_erase(
    image: npt.NDArray[Any], code: int, rectangle: list[int], fill: list[int]
) -> npt.NDArray[Any]:
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    y0, x0, y1, x1 = rectangle
    inside = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
    chosen = inside if code == ERASE_INSIDE else ~inside
    return np.where(chosen[..., None], np.array(fill[: image.shape[2]], image.dtype), image)


rectangles = st.lists(st.integers(-5, 25), min_size=4, max_size=4)
erasures = st.lists(
    st.tuples(
        st.sampled_from([ERASE_INSIDE, ERASE_OUTSIDE]),
        rectangles,
        st.lists(st.integers(0, 255), min_size=4, max_size=4),
    ),
    max_size=4,
)


@SOME
@given(erasures, st.integers(0, 4), st.sampled_from([1, 3]), st.booleans(), st.sampled_from(sorted(BITS)))
def test_erasures_before_and_after_the_table(
    compose_batch: Composer, erasures: Any, late_from: int, channels: int, planar: bool, bits: str
) -> None:
    """Each in its turn, the early ones on grey levels and the late ones on bits of the output."""
    late_from = min(late_from, len(erasures))
    image, table = random_images(1, channels)[0], random_table(channels, bits)
    got = compose_batch(
        [image], [(0, 0, 20, 20)], (20, 20), RESAMPLE_NONE, lut=table, planar=planar,
        ops=[[code, 1 + 4 * k] for k, (code, _, _) in enumerate(erasures)],
        fills=[fill for _, _, fill in erasures],
        params=[[0.0, *(edge for _, rectangle, _ in erasures for edge in rectangle)]],
        late_from=late_from,
    )[0]  # fmt: skip
    expected: npt.NDArray[Any] = image[:20, :20]
    for code, rectangle, fill in erasures[:late_from]:
        expected = reference_erase(expected, code, rectangle, fill)
    expected = np.stack([table[c][expected[..., c]] for c in range(channels)], axis=-1)
    for code, rectangle, fill in erasures[late_from:]:
        expected = reference_erase(expected, code, rectangle, fill)
    assert np.array_equal(got.transpose(1, 2, 0) if planar else got, expected)

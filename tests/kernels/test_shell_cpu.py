"""The launch as a whole against numpy: where pixels come from, where they go, what overwrites them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffcv_gpu.kernels.codes import (
    BRIGHTNESS,
    ERASE_INSIDE,
    ERASE_OUTSIDE,
    RESAMPLE_AREA,
    RESAMPLE_NEAREST,
    RESAMPLE_NONE,
    TABLE_COLUMNS,
    scratch_size,
)

Pixels = npt.NDArray[np.uint8]
Composer = Callable[..., npt.NDArray[Any]]
SOME = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_images(count: int, channels: int = 3, *, side: int = 40) -> list[Pixels]:
    rng = np.random.default_rng(channels)
    shapes = rng.integers(side // 2, side, (count, 2))
    return [rng.integers(0, 256, (h, w, channels), dtype=np.uint8) for h, w in shapes]


def whole(images: list[Pixels]) -> list[tuple[int, int, int, int]]:
    return [(0, 0, *image.shape[:2]) for image in images]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(12, 10), (70, 90), (12, 90)])
@pytest.mark.parametrize("resample", [RESAMPLE_AREA, RESAMPLE_NEAREST])
def test_mirrored(compose_batch: Composer, resample: int, size: tuple[int, int], channels: int) -> None:
    """Both directions of both axes, against numpy's flip of the image composed as it is."""
    image = random_images(1, channels)[0]
    plain = compose_batch([image], whole([image]), size, resample)[0]
    for sign_y in (1, -1):
        for sign_x in (1, -1):
            mirror = [sign_y, size[0] - 1 if sign_y < 0 else 0, sign_x, size[1] - 1 if sign_x < 0 else 0]
            got = compose_batch([image], whole([image]), size, resample, geometry=[mirror])[0]
            assert np.array_equal(got, plain[::sign_y, ::sign_x])


@SOME
@given(st.integers(-30, 30), st.integers(-30, 30), st.booleans(), st.sampled_from([(13, 17), (50, 60)]))
def test_shift_with_fill_is_pad_and_window(
    compose_batch: Composer, dy: int, dx: int, flip: bool, size: tuple[int, int]
) -> None:
    image = random_images(1)[0]
    fill = (9, 100, 255)
    (height, width), margin = size, 30
    rectangle = [-dy, -dx, height - dy, width - dx]
    sign, shift = (-1, width - 1 - dx) if flip else (1, dx)
    got = compose_batch(
        [image], whole([image]), size, RESAMPLE_AREA, geometry=[[1, dy, sign, shift]],
        ops=[[ERASE_OUTSIDE, 0]], fills=[[*fill, 0]], params=[rectangle], late_from=1,
    )[0]  # fmt: skip
    frame = compose_batch([image], whole([image]), size, RESAMPLE_AREA)[0]
    frame = frame[:, ::-1] if flip else frame
    padded = np.empty((height + 2 * margin, width + 2 * margin, 3), np.uint8)
    padded[:] = fill
    padded[margin : margin + height, margin : margin + width] = frame
    y, x = margin + dy, margin + dx
    assert np.array_equal(got, padded[y : y + height, x : x + width])


def test_a_shift_without_a_fill_reflects_the_image(compose_batch: Composer) -> None:
    image = random_images(1)[0]
    h, w = image.shape[:2]
    got = compose_batch([image], whole([image]), (h, w), RESAMPLE_NONE, geometry=[[1, -5, 1, 7]])[0]
    padded = np.pad(image, ((5, 0), (0, 7), (0, 0)), mode="reflect")
    assert np.array_equal(got, padded[:h, 7:])


@pytest.mark.parametrize("resample", [RESAMPLE_AREA, RESAMPLE_NEAREST])
def test_two_memories_and_padded_rows(compose_batch: Composer, resample: int) -> None:
    images = random_images(6)
    expected = compose_batch(images, whole(images), (15, 31), resample)
    mixed = [True, False, False, True, True, False]
    got = compose_batch(images, whole(images), (15, 31), resample, in_stored=mixed, gap=13)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("gap", [0, 5])
def test_boxes_of_the_outputs_size_are_copied(compose_batch: Composer, channels: int, gap: int) -> None:
    """Whole images and parts of them, upright or not, in one batch; also through a table."""
    images = [image[:19, :17] if n == 1 else image for n, image in enumerate(random_images(4, channels))]
    images = [np.ascontiguousarray(image) for image in images]
    boxes = [(1, 2, 19, 17), (0, 0, 19, 17), (0, 3, 19, 17), (1, 0, 19, 17)]
    geometry = [[1, 0, 1, 0]] * 3 + [[-1, 18, 1, 0]]
    got = compose_batch(images, boxes, (19, 17), RESAMPLE_AREA, geometry=geometry, gap=gap)
    cut = [image[y : y + h, x : x + w] for image, (y, x, h, w) in zip(images, boxes, strict=True)]
    cut[3] = cut[3][::-1]
    assert np.array_equal(got, cut)
    table = np.random.default_rng(8).integers(0, 1 << 16, (channels, 256), np.uint16)
    got = compose_batch(images, boxes, (19, 17), RESAMPLE_AREA, geometry=geometry, gap=gap, lut=table)
    assert np.array_equal(got, table[np.arange(channels), np.array(cut)])


def test_part_of_a_batch(compose_batch: Composer) -> None:
    """Rows outside [lo, hi) keep what they held (`compose_batch` looks)."""
    images = random_images(6)
    expected = compose_batch(images, whole(images), (25, 31), RESAMPLE_AREA)
    for lo, hi in ((0, 1), (2, 5), (5, 6), (3, 3)):
        got = compose_batch(images, whole(images), (25, 31), RESAMPLE_AREA, lo=lo, hi=hi)
        assert np.array_equal(got[lo:hi], expected[lo:hi])


def test_a_sample_does_not_depend_on_what_was_made_before_it(compose_batch: Composer) -> None:
    """Resampled rows are kept within a sample, never into the next one of equal size."""
    one, two = (np.full((10, 12, 3), value, np.uint8) for value in (50, 200))
    got = compose_batch([one, two, one], whole([one, two, one]), (20, 24), RESAMPLE_AREA)
    assert [set(sample.ravel()) for sample in got] == [{50}, {200}, {50}]


def test_what_is_for_planes_is_compiled_for_planes_only(
    compose_batch: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than the rest; only a GPU's decoder makes planes."""
    from ffcv_gpu.kernels import shell_cpu

    monkeypatch.setattr(shell_cpu, "compose_planes", None)
    image = np.full((9, 9, 3), 100, np.uint8)
    settings: dict[str, Any] = {
        "ops": [(BRIGHTNESS, 0)],
        "fills": [[0] * 4],
        "params": [[0.5]],
        "late_from": 1,
    }
    assert (compose_batch([image], [(0, 0, 9, 9)], (9, 9), RESAMPLE_NONE, **settings) == 50).all()


def test_threads_share_a_batch(compose_batch: Composer) -> None:
    images = random_images(32, side=120)
    expected = compose_batch(images, whole(images), (48, 48), RESAMPLE_AREA)

    def part(lo: int) -> npt.NDArray[Any]:
        out = compose_batch(images, whole(images), (48, 48), RESAMPLE_AREA, lo=lo, hi=lo + 4)
        return out[lo : lo + 4]

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(part, range(0, 32, 4)))
    assert np.array_equal(np.concatenate(parts), expected)


WRONG: dict[str, dict[str, Any]] = {
    "a box lies outside its pixels": {"boxes": [(0, 0, 10_000, 4)]},
    "fewer rows than hi": {"hi": 2},
    "late_from, ops and fills do not agree": {"late_from": 1},
    "unknown operation": {"ops": [[99, 0]], "fills": [[0] * 4], "params": [[0.0] * 4]},
    "columns are not in params": {"ops": [[ERASE_INSIDE, 1]], "fills": [[0] * 4], "params": [[0.0] * 4]},
    "unknown filter": {"resample": 9},
    "lut must be": {"lut": np.zeros((3, 255), np.uint8)},
}


@pytest.mark.parametrize("message", WRONG)
def test_arguments_that_do_not_fit_are_refused(compose_batch: Composer, message: str) -> None:
    image = random_images(1)[0]
    arguments: dict[str, Any] = {"boxes": whole([image]), "size": (8, 8), "resample": RESAMPLE_AREA}
    with pytest.raises(ValueError, match=message):
        compose_batch([image], **(arguments | WRONG[message]))


def call_with(out_items: int, scratch_floats: int) -> None:
    from ffcv_gpu.kernels.shell_cpu import compose

    pixels = np.zeros(300, np.uint8)
    pixels.flags.writeable = False
    table = np.zeros((1, TABLE_COLUMNS), np.int64)
    table[0, 4] = 30
    compose(
        pixels, pixels, table, np.array([[0, 0, 10, 10]], np.int32), np.array([[1, 0, 1, 0]], np.int32),
        np.zeros((1, 0), np.float32), np.zeros((0, 2), np.int32), np.zeros((0, 4), np.uint32), 0,
        np.zeros((3, 256), np.uint8), np.zeros(out_items, np.uint8), np.array([48, 12, 3, 1]), 4, 4,
        RESAMPLE_AREA, np.zeros(scratch_floats, np.float32), 0, 1,
    )  # fmt: skip


def test_memory_that_is_too_small_is_refused() -> None:
    enough = scratch_size(10, 10, 4, 4, 3)
    call_with(48, enough)
    with pytest.raises(ValueError, match="out is too small"):
        call_with(47, enough)
    with pytest.raises(ValueError, match="scratch is too small"):
        call_with(48, enough // 4)


def gathered(lengths: list[int], width: int, lo: int = 0) -> npt.NDArray[np.uint8]:
    from ffcv_gpu.kernels.shell_cpu import gather

    stored = np.arange(100, dtype=np.uint8)
    stored.flags.writeable = False
    offsets = np.cumsum([3, *lengths[:-1]])
    out = np.full((len(lengths), width), 77, np.uint8)
    gather(stored, offsets, np.array(lengths), out, lo, len(lengths))
    return out


def test_gather_copies_and_zeroes_the_rest() -> None:
    expected = [[3, 4, 5, 6], [7, 0, 0, 0], [0, 0, 0, 0], [8, 9, 0, 0]]
    assert gathered([4, 1, 0, 2], 4).tolist() == expected
    assert gathered([4, 1, 0, 2], 4, lo=3).tolist() == [[77] * 4] * 3 + expected[3:]


@pytest.mark.parametrize("lengths", [[5], [-1], [4, 200]])
def test_gather_refuses_what_does_not_fit(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        gathered(lengths, 4)


def test_gather_of_many_payloads_anywhere() -> None:
    """Payloads that come later are fetched into the cache first, however long they are, wherever they lie."""
    from ffcv_gpu.kernels.shell_cpu import gather

    rng = np.random.default_rng(5)
    stored = rng.integers(0, 256, 100_000, dtype=np.uint8)
    stored.flags.writeable = False
    lengths = rng.integers(0, 900, 300)
    offsets = rng.integers(0, stored.size - lengths + 1)
    out = np.full((300, 900), 77, np.uint8)
    gather(stored, offsets, lengths, out, 0, 300)
    for row, begin, length in zip(out, offsets, lengths, strict=True):
        assert np.array_equal(row[:length], stored[begin : begin + length]) and not row[length:].any()


@pytest.mark.parametrize("offset", [1 << 62, -(1 << 62), 1 << 40])
def test_gather_fetches_nothing_that_does_not_exist(offset: int) -> None:
    from ffcv_gpu.kernels.shell_cpu import gather

    stored = np.zeros(64, np.uint8)
    stored.flags.writeable = False
    offsets, lengths, out = np.zeros(20, np.int64), np.ones(20, np.int64), np.full((20, 1), 7, np.uint8)
    offsets[12] = offset
    with pytest.raises(ValueError, match="does not fit"):
        gather(stored, offsets, lengths, out, 0, 20)
    assert out[:12].sum() == 0 and (out[12:] == 7).all()

"""Each colour operation through the kernel, against torchvision's on the same uint8 image."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.kernels.codes import (
    AFFINE,
    BRIGHTNESS,
    CONTRAST,
    ERASE_INSIDE,
    GRAYSCALE,
    HUE,
    MIX,
    OPERATION_COLUMNS,
    POSTERIZE,
    RESAMPLE_NONE,
    SATURATION,
    SOLARIZE,
)

Pixels = npt.NDArray[np.uint8]
Composer = Callable[..., npt.NDArray[Any]]
Operation = tuple[int, tuple[float, ...]]

NEUTRAL: list[Operation] = [
    (BRIGHTNESS, (1.0,)), (CONTRAST, (1.0, 117.3)), (SATURATION, (1.0,)), (HUE, (0.0,)), (GRAYSCALE, (0.0,)),
    (SOLARIZE, (256.0,)), (POSTERIZE, (8.0,)), (AFFINE, (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)),
]  # fmt: skip


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def every_shade() -> Pixels:
    """All combinations of 48 levels, among them 0 and 255: (288, 384, 3)."""
    levels = np.unique(np.round(np.linspace(0, 255, 48))).astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(288, 384, 3)


def applied(compose: Composer, image: Pixels, operations: list[Operation]) -> Pixels:
    """One launch that does nothing but `operations`."""
    ops, params = [], []
    for code, values in operations:
        ops.append((code, len(params)))
        params += values
    size = image.shape[:2]
    fills = [[0] * 4] * len(ops)
    return compose(
        [image], [(0, 0, *size)], size, RESAMPLE_NONE, ops=ops, fills=fills, params=[params],
        late_from=len(ops),
    )[0]  # fmt: skip


def by_torchvision(torchvision: ModuleType, name: str, image: Pixels, *arguments: Any) -> Pixels:
    import torch

    function = getattr(torchvision.transforms.v2.functional, name)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    return function(tensor, *arguments).numpy().transpose(1, 2, 0)


def differing(got: Pixels, expected: Pixels) -> float:
    """Share of values that differ, by 1 at most."""
    apart = np.abs(got.astype(int) - expected)
    assert apart.max() <= 1
    return float((apart > 0).mean())


def grey_mean(torchvision: ModuleType, image: Pixels) -> float:
    """What `CONTRAST` wants: torchvision cuts each grey level off before it takes the mean."""
    grey = by_torchvision(torchvision, "rgb_to_grayscale", image) if image.shape[2] == 3 else image
    return float(grey.astype(np.float32).mean())


# Share of values that may be one off. With fractions of a power of two both are exact. With 1.4 a fifth of
# all blends are whole numbers in exact arithmetic, and rounding decides which side of them is cut off:
# torchvision takes 1 - factor in float64, a kernel has the factor in float32.
SHARES = {0.0: 0, 0.25: 0, 0.6: 0.03, 0.95: 0.03, 1.0: 0, 1.4: 0.07, 2.5: 0, 0.61372: 1e-3, 1.38607: 1e-3}


@pytest.mark.parametrize("factor", SHARES)
@pytest.mark.parametrize("channels", [1, 3])
def test_blends(compose_batch: Composer, torchvision: ModuleType, factor: float, channels: int) -> None:
    image = noise(200, 300, channels) if channels == 1 else every_shade()
    mean = grey_mean(torchvision, image)
    for code, name, values in (
        (BRIGHTNESS, "adjust_brightness", (factor,)),
        (CONTRAST, "adjust_contrast", (factor, mean)),
        (SATURATION, "adjust_saturation", (factor,)),
    ):
        got = applied(compose_batch, image, [(code, values)])
        expected = by_torchvision(torchvision, name, image, factor)
        assert differing(got, expected) <= max(SHARES[factor], 2e-4 if code == CONTRAST else 0), name


@pytest.mark.parametrize("shift", [-0.5, -0.31, -0.1, -0.01, 0.02, 0.1, 0.25, 0.4, 0.5])
def test_hue(compose_batch: Composer, torchvision: ModuleType, shift: float) -> None:
    image = every_shade()
    got = applied(compose_batch, image, [(HUE, (shift,))])
    assert differing(got, by_torchvision(torchvision, "adjust_hue", image, shift)) <= 0.002


@pytest.mark.parametrize("threshold", [0, 1, 77, 128, 255])
def test_solarize(compose_batch: Composer, torchvision: ModuleType, threshold: int) -> None:
    for image in (every_shade(), noise(20, 30, 1)):
        got = applied(compose_batch, image, [(SOLARIZE, (threshold,))])
        assert np.array_equal(got, by_torchvision(torchvision, "solarize", image, threshold))


@pytest.mark.parametrize("bits", range(9))
def test_posterize(compose_batch: Composer, torchvision: ModuleType, bits: int) -> None:
    for image in (every_shade(), noise(20, 30, 1)):
        got = applied(compose_batch, image, [(POSTERIZE, (bits,))])
        assert np.array_equal(got, by_torchvision(torchvision, "posterize", image, bits))


def test_grayscale(compose_batch: Composer, torchvision: ModuleType) -> None:
    image = every_shade()
    got = applied(compose_batch, image, [(GRAYSCALE, (1.0,))])
    assert differing(got, by_torchvision(torchvision, "rgb_to_grayscale", image, 3)) <= 0.001


@pytest.mark.parametrize("span", [(0, 255), (3, 250), (100, 101), (17, 202), (9, 9)])
def test_affine_is_autocontrast(
    compose_batch: Composer, torchvision: ModuleType, span: tuple[int, int]
) -> None:
    """Exact arithmetic decides: torchvision's division loses a level now and then, even of all white."""
    low, high = span
    image = np.random.default_rng(low).integers(low, high + 1, (60, 80, 3), dtype=np.uint8)
    image[0, 0], image[0, 1] = low, high
    scale = 255 / (high - low) if high > low else 1.0
    offset = -low * scale if high > low else 0.0
    got = applied(compose_batch, image, [(AFFINE, (scale,) * 3 + (offset,) * 3)])
    exact = (image.astype(int) - low) * 255 // (high - low) if high > low else image
    assert np.array_equal(got, exact)
    assert differing(got, by_torchvision(torchvision, "autocontrast", image)) <= (
        0.51 if span == (100, 101) else 0.01
    )


def test_affine_has_numbers_for_each_channel(compose_batch: Composer) -> None:
    image = noise(20, 30)
    got = applied(compose_batch, image, [(AFFINE, (0.5, 1.0, 2.0, 10.0, -20.0, 0.0))])
    expected = np.clip(image * np.array([0.5, 1.0, 2.0]) + np.array([10, -20, 0]), 0, 255).astype(np.uint8)
    assert np.array_equal(got, expected)


def test_neutral_parameters_change_nothing(compose_batch: Composer) -> None:
    image = every_shade()
    for operation in NEUTRAL:
        assert np.array_equal(applied(compose_batch, image, [operation]), image), operation
    assert np.array_equal(applied(compose_batch, image, NEUTRAL), image)
    grey = noise(40, 50, 1)
    assert np.array_equal(applied(compose_batch, grey, NEUTRAL), grey)


@pytest.mark.parametrize("operation", [(SATURATION, (0.3,)), (HUE, (0.2,)), (GRAYSCALE, (1.0,))])
def test_grey_images_have_no_colour_to_change(compose_batch: Composer, operation: Operation) -> None:
    grey = noise(40, 50, 1)
    assert np.array_equal(applied(compose_batch, grey, [operation]), grey)


def test_the_written_order_counts(compose_batch: Composer, torchvision: ModuleType) -> None:
    """Chains of three against torchvision's, with a rectangle that is erased in between."""
    image = every_shade()
    calls: dict[str, Operation] = {
        "adjust_brightness": (BRIGHTNESS, (0.5,)),
        "adjust_saturation": (SATURATION, (2.0,)),
        "solarize": (SOLARIZE, (100,)),
    }
    for order in (list(calls), list(reversed(calls))):
        operations = [calls[name] for name in order]
        operations.insert(2, (ERASE_INSIDE, (10.0, 20.0, 100.0, 200.0)))
        expected = image
        for number, name in enumerate(order):
            if number == 2:
                expected = expected.copy()
                expected[10:100, 20:200] = 0
            expected = by_torchvision(torchvision, name, expected, calls[name][1][0])
        got = applied(compose_batch, image, operations)
        apart = np.abs(got.astype(int) - expected)
        assert (apart > 2).mean() <= 0.001  # solarizing a level that is off by one inverts it
        assert np.array_equal(got[50, 50], expected[50, 50])


def test_operations_act_on_the_resampled_and_mirrored_image(compose_batch: Composer) -> None:
    from ffcv_gpu.kernels.codes import RESAMPLE_AREA

    image, size = noise(60, 70), (30, 20)
    arguments: dict[str, Any] = {"geometry": [[1, 0, -1, 19]]}
    plain = compose_batch([image], [(5, 6, 50, 60)], size, RESAMPLE_AREA, **arguments)[0]
    got = compose_batch(
        [image], [(5, 6, 50, 60)], size, RESAMPLE_AREA, ops=[(SOLARIZE, 0)], fills=[[0] * 4],
        params=[[100.0]], late_from=1, **arguments,
    )[0]  # fmt: skip
    assert np.array_equal(got, np.where(plain >= 100, 255 - plain, plain))


WRONG: dict[str, dict[str, Any]] = {
    "come before the table": {"ops": [[BRIGHTNESS, 0]], "late_from": 0},
    "unknown operation": {"ops": [[MIX, 0]], "late_from": 1},
    "not in params": {"ops": [[AFFINE, 1]], "late_from": 1},
}


@pytest.mark.parametrize("message", WRONG)
def test_nonsense_is_refused(compose_batch: Composer, message: str) -> None:
    image = noise(8, 8)
    arguments = {"fills": [[0] * 4], "params": [[1.0] * 6]} | WRONG[message]
    with pytest.raises(ValueError, match=message):
        compose_batch([image], [(0, 0, 8, 8)], (8, 8), RESAMPLE_NONE, **arguments)


def test_four_channels_have_no_colour(compose_batch: Composer) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels"):
        applied(compose_batch, noise(8, 8, 4), [(BRIGHTNESS, (0.5,))])


def test_every_code_has_its_number_of_columns() -> None:
    assert {code: len(values) for code, values in NEUTRAL} == {
        code: OPERATION_COLUMNS[code] for code in range(BRIGHTNESS, AFFINE + 1)
    }

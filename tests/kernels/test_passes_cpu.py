"""The launches on finished images against torchvision's functions on uint8 tensors, and numpy."""

import numpy as np
import pytest
import torch

from ffcv_gpu.kernels import passes_cpu
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    COLUMN_WIDTH,
    KIND_STORED,
    TABLE_COLUMNS,
)
from ffcv_gpu.kernels.pass_codes import REMAP_EQUALIZE, REMAP_NONE, REMAP_STRETCH

SIZES = [(37, 53, 3), (16, 16, 1), (3, 5, 3), (1, 1, 3), (64, 9, 4)]
GUARD = 32


@pytest.fixture(scope="module")
def functional(torchvision):
    return torchvision.transforms.v2.functional


def images(shape, count=4, seed=0):
    """Noise, a gradient, one colour, and few levels: the last two are where tables degenerate."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    made[1] = np.linspace(20, 190, made[1].size).reshape(shape).astype(np.uint8)
    made[2] = 77
    made[3] = made[3] // 86 * 50 + 3
    return made


def tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def array(image):
    return image.numpy().transpose(1, 2, 0)


def guarded(source):
    """Memory like `source` with guards around it, and a check that they stand."""
    buffer = np.full(source.size + 2 * GUARD, 0xA5, np.uint8)

    def check():
        assert (buffer[:GUARD] == 0xA5).all() and (buffer[-GUARD:] == 0xA5).all()

    return buffer[GUARD:-GUARD].reshape(source.shape), check


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.7, 2.5])
@pytest.mark.parametrize("shape", [s for s in SIZES if s[2] != 4])
def test_sharpness_is_torchvisions(functional, shape, factor):
    source = images(shape)
    out, check = guarded(source)
    passes_cpu.sharpen(source, np.full((4, 1), 1.0 - factor, np.float32), out, 0, 4)
    check()
    for image, made in zip(source, out, strict=True):
        expected = array(functional.adjust_sharpness(tensor(image), factor))
        assert np.array_equal(made, expected)


@pytest.mark.parametrize(("taps", "sigma"), [(1, 1.0), (3, 0.5), (5, 2.0), (9, 0.1), (23, 1.3)])
def test_blur_is_torchvisions(functional, taps, sigma):
    source = images((37, 53, 3))
    away = np.arange(taps) - taps // 2
    weights = np.exp(-0.5 * (away / sigma) ** 2)
    rows = np.tile((weights / weights.sum()).astype(np.float32), (4, 1))
    out, check = guarded(source)
    scratch = np.full(passes_cpu.blur_scratch(53, 3, taps) + GUARD, np.nan, np.float32)
    passes_cpu.blur(source, rows, out, scratch[:-GUARD], 0, 4)
    check()
    assert np.isnan(scratch[-GUARD:]).all()
    for image, made in zip(source, out, strict=True):
        expected = array(functional.gaussian_blur(tensor(image), [taps, taps], [sigma, sigma]))
        apart = np.abs(made.astype(int) - expected)
        assert apart.max() <= 1 and (apart > 0).mean() < 2e-3  # ties of float32 sums in another order


MATRICES = {
    "still": ((1, 0, 0, 0, 1, 0), {"angle": 0, "translate": [0, 0], "shear": [0.0, 0.0]}),
    "right": ((1, 0, -3, 0, 1, 2), {"angle": 0, "translate": [3, -2], "shear": [0.0, 0.0]}),
    "turn": (
        (np.cos(0.4), np.sin(0.4), 0, -np.sin(0.4), np.cos(0.4), 0),
        {"angle": np.degrees(0.4), "translate": [0, 0], "shear": [0.0, 0.0]},
    ),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("shape", [s for s in SIZES if s[2] != 4])
def test_warp_is_torchvisions_nearest(functional, name, shape):
    matrix, arguments = MATRICES[name]
    source = images(shape)
    fill = np.array([9, 90, 200][: shape[2]], np.uint8)
    out, check = guarded(source)
    passes_cpu.warp(source, np.tile(np.array(matrix, np.float32), (4, 1)), fill, out, 0, 4)
    check()
    for image, made in zip(source, out, strict=True):
        expected = array(functional.affine(tensor(image), scale=1.0, fill=fill.tolist(), **arguments))
        assert (made != expected).any(axis=-1).mean() < 2e-3  # positions within a rounding of a pixel's edge


@pytest.mark.parametrize("shape", [s for s in SIZES if s[2] != 4])
def test_remap_is_torchvisions_autocontrast_and_equalize(functional, shape):
    functions = {REMAP_STRETCH: functional.autocontrast, REMAP_EQUALIZE: functional.equalize}
    scratch = np.empty(passes_cpu.remap_scratch(shape[2]), np.float32)
    for mode, function in functions.items():
        source = images(shape)
        expected = [array(function(tensor(image))) for image in source]
        out, check = guarded(source)
        out[:] = source
        passes_cpu.remap(out, np.full((4, 1), mode, np.float32), scratch, 0, 4)
        check()
        assert np.array_equal(out, np.stack(expected))


def test_mean_of_grey_is_torchvisions(functional):
    source = images((37, 53, 3))
    params = np.full((4, 3), -1.0, np.float32)
    passes_cpu.mean_grey(source, params, 1, 0, 4)
    for image, mean in zip(source, params[:, 1], strict=True):
        grey = functional.rgb_to_grayscale(tensor(image)).double().mean()
        assert mean == pytest.approx(float(grey), abs=2e-4)
    assert (params[:, [0, 2]] == -1).all()
    grey_images = images((16, 16, 1))
    passes_cpu.mean_grey(grey_images, params, 2, 0, 4)
    assert params[:, 2] == pytest.approx(grey_images.mean(axis=(1, 2, 3)), rel=1e-6)


def test_neutral_parameters_keep_every_byte():
    source = images((37, 53, 3))
    scratch = np.empty(4000, np.float32)
    still = np.tile(np.array([1, 0, 0, 0, 1, 0], np.float32), (4, 1))
    middle = np.tile(np.array([0, 0, 1, 0, 0], np.float32), (4, 1))
    zero, fill = np.zeros((4, 1), np.float32), np.zeros(3, np.uint8)
    for run in (
        lambda out: passes_cpu.sharpen(source, zero, out, 0, 4),
        lambda out: passes_cpu.blur(source, middle, out, scratch, 0, 4),
        lambda out: passes_cpu.warp(source, still, fill, out, 0, 4),
    ):
        out = np.zeros_like(source)
        run(out)
        assert np.array_equal(out, source)
    out = source.copy()
    passes_cpu.remap(out, np.full((4, 1), REMAP_NONE, np.float32), scratch, 0, 4)
    plane = np.full(source.shape[1:], 0.5, np.float32)
    passes_cpu.blend(out, zero, plane, plane, np.array([0, 255], np.float32), 0, 4)
    assert np.array_equal(out, source)


def test_only_the_samples_asked_for_are_written():
    source = images((16, 16, 1), count=6)
    amounts = np.full((6, 1), 0.5, np.float32)
    whole, part = np.zeros_like(source), np.zeros_like(source)
    passes_cpu.sharpen(source, amounts, whole, 0, 6)
    passes_cpu.sharpen(source, amounts, part, 2, 5)
    assert np.array_equal(part[2:5], whole[2:5]) and not part[:2].any() and not part[5:].any()


def test_pad_takes_images_from_both_memories_and_clears_the_rest():
    rng = np.random.default_rng(1)
    sizes = [(5, 7), (9, 2), (1, 1), (9, 11)]
    pictures = [rng.integers(1, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    table = np.zeros((4, TABLE_COLUMNS), np.int64)
    memories = [[np.zeros(5, np.uint8)], [np.zeros(3, np.uint8)]]
    for n, picture in enumerate(pictures):
        stored = n % 2
        begin = sum(part.size for part in memories[stored])
        memories[stored].append(picture.ravel())
        table[n, [COLUMN_KIND, COLUMN_OFFSET0]] = KIND_STORED if stored else 0, begin
        table[n, [COLUMN_PITCH0, COLUMN_HEIGHT, COLUMN_WIDTH]] = 3 * sizes[n][1], *sizes[n]
    decoded, stored_memory = (np.concatenate(parts) for parts in memories)
    out, check = guarded(np.zeros((4, 9, 11, 3), np.uint8))
    passes_cpu.pad(decoded, stored_memory, table, out, 0, 4)
    check()
    for made, picture, (height, width) in zip(out, pictures, sizes, strict=True):
        expected = np.zeros((9, 11, 3), np.uint8)
        expected[:height, :width] = picture
        assert np.array_equal(made, expected)


def test_blend_is_ffcvs_formula_rounded():
    source = images((16, 16, 1))
    rng = np.random.default_rng(3)
    alpha, mask = rng.random((16, 16, 1)), rng.integers(0, 400, (16, 16, 1)).astype(float)
    keep, add = (1 - alpha).astype(np.float32), (mask * alpha).astype(np.float32)
    chosen = np.array([[1], [0], [1], [0]], np.float32)
    out = source.copy()
    passes_cpu.blend(out, chosen, keep, add, np.array([10, 250], np.float32), 0, 4)
    exact = np.clip(source * (1 - alpha) + mask * alpha, 10, 250)
    expected = np.where(chosen[:, :, None, None] == 1, exact, source)
    assert np.abs(out - expected).max() <= 0.5001
    assert np.array_equal(out[[1, 3]], source[[1, 3]])

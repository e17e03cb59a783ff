"""Image steps behind a user's own operations: launches of their own, with the results they have before it."""

from dataclasses import replace

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.pipeline.allocation_query import AllocationQuery
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.transforms import (
    Cutout,
    GaussianBlur,
    NormalizeImage,
    RandomBrightness,
    RandomContrast,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomTranslate,
    RandomVerticalFlip,
    ToTensor,
    ToTorchImage,
)
from tests.compat.operations import Corner, Invert, N, column, images_of, python_mode


class Wider(Invert):
    """Returns int64, which numba makes of it, and says nothing of it."""

    def generate_code(self):
        return lambda images, memory: 255 - images


class Shares(Invert):
    """Returns shares of white, and says nothing of their type."""

    def generate_code(self):
        return lambda images, memory: images / 255


class Lies(Corner):
    """Returns larger images than it says."""

    declare_state_and_memory = python_mode(Corner.declare_state_and_memory)

    def generate_code(self):
        return lambda images, memory: images


class As(Operation):
    """The images as another type."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)

    def generate_code(self):
        def copy(images, memory):
            memory[:] = images
            return memory

        return copy

    def declare_state_and_memory(self, previous_state):
        query = AllocationQuery(previous_state.shape, self.dtype)
        return replace(previous_state, dtype=self.dtype), query


class Halves(As):
    """Returns fewer rows than it says."""

    def generate_code(self):
        return lambda images, memory: memory[:, ::2]


def test_image_steps_go_on_behind_an_operation(known):
    """As in FFCV. Two inversions cancel; steps that do nothing stand in their places, for equal draws."""
    flip, shift, cut = RandomHorizontalFlip(), RandomTranslate(2, (9, 8, 7)), Cutout(2, (1, 2, 3))
    none = [RandomHorizontalFlip(0.0), RandomHorizontalFlip(0.0)]
    mine = images_of(known, Wider(), flip, Invert(False), shift, cut)
    expected = column(images_of(known, none[0], flip, none[1], shift, cut))
    assert np.array_equal(column(mine), expected)
    assert mine.explain().count("on the finished batch, in one thread: fused launch 1") == 3

    steps = [RandomResizedCrop((0.5, 1), (0.75, 4 / 3), 10), RandomContrast(0.8), GaussianBlur(1.0, 3)]
    steps += [NormalizeImage(np.full(3, 127.0), np.full(3, 60.0), np.float16), ToTensor(), ToTorchImage()]
    got = column(images_of(known, Invert(False), Invert(False), *steps))
    expected = column(images_of(known, *none, *steps))
    assert got.dtype == np.float16 and got.shape == (N, 3, 10, 10) and np.array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint16"])
def test_flips_shifts_and_fills_go_on_behind_other_types(known, dtype):
    """As in FFCV."""
    steps = [
        RandomHorizontalFlip(),
        RandomTranslate(5, (9, 8, 7)),
        Cutout(3, (1, 2, 3)),
        RandomVerticalFlip(0.7),
        RandomErasing(0.8, mean=4),
        RandomTranslate(30, 5),
        RandomTranslate(11, padding_mode="reflect"),
    ]
    loader = images_of(known, As(dtype), *steps, batch_size=5)
    got, expected = column(loader), column(images_of(known, RandomHorizontalFlip(0.0), *steps))
    assert got.dtype == dtype and np.array_equal(got, expected)
    assert loader.explain().count("on the finished batch, by numpy") == len(steps)
    filled = column(images_of(known, As(dtype), RandomErasing(1.0, (0.8, 0.8), (1, 1), -7.4)))
    lowest = {"int16": -7.0, "uint16": 0.0}.get(dtype, -7.4)
    assert filled.min() == np.float64(lowest).astype(dtype)


def test_images_of_other_types_behind_an_operation_are_checked(known):
    with pytest.raises(PipelineError, match=r"square of 13 pixels does not fit"):
        images_of(known, As("float32"), Cutout(13))
    with pytest.raises(PipelineError, match=r"RandomTranslate.*fill has 2 values"):
        images_of(known, As("float32"), RandomTranslate(3, (1, 2)))
    with pytest.raises(PipelineError, match=r"declared numpy \(N, 12, 12, 3\).*shape \(8, 6, 12, 3\)"):
        column(images_of(known, Halves("float32"), RandomHorizontalFlip()))
    with pytest.raises(PipelineError, match=r"RandomBrightness.*(finished batch|uint8 images)"):
        images_of(known, As("float32"), RandomBrightness(0.5))


@pytest.mark.parametrize("jit", [True, False])
def test_fractions_that_a_declaration_leaves_out_are_warned_of(known, caplog, jit):
    """All pixels became 0, as in FFCV, and nothing said why."""
    loader = images_of(known, Shares(jit), RandomHorizontalFlip())
    assert column(loader).dtype == np.uint8
    (warning,) = caplog.messages  # one for all batches
    assert "'image': an operation returns float64 although" in warning and "says uint8" in warning
    caplog.clear()
    column(images_of(known, Wider(), RandomHorizontalFlip()))  # whole numbers
    column(images_of(known, Shares(jit)))  # nothing reads them as declared
    assert not caplog.messages


def test_batches_made_behind_an_operation_stay_what_they_were(known):
    loader = images_of(known, Invert(False), Cutout(2))
    kept = [batch[0] for _ in range(2) for batch in loader]
    again = images_of(known, Invert(False), Cutout(2))
    assert np.array_equal(np.concatenate(kept), np.concatenate([column(again), column(again)]))


def test_an_operation_that_gives_other_images_than_it_says_is_found_out(known):
    with pytest.raises(PipelineError, match=r"declared numpy \(N, 6, 6, 3\).*shape \(8, 12, 12, 3\)"):
        column(images_of(known, Lies(), RandomHorizontalFlip()))

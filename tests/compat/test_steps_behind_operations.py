"""Image steps behind a user's own operations: launches of their own, with the results they have before it."""

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.transforms import (
    Cutout,
    GaussianBlur,
    NormalizeImage,
    RandomContrast,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomTranslate,
    ToTensor,
    ToTorchImage,
)
from tests.compat.operations import Corner, Invert, N, column, images_of, python_mode


class Wider(Invert):
    """Returns int64, which numba makes of it, and says nothing of it."""

    def generate_code(self):
        return lambda images, memory: 255 - images


class Lies(Corner):
    """Returns larger images than it says."""

    declare_state_and_memory = python_mode(Corner.declare_state_and_memory)

    def generate_code(self):
        return lambda images, memory: images


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


def test_batches_made_behind_an_operation_stay_what_they_were(known):
    loader = images_of(known, Invert(False), Cutout(2))
    kept = [batch[0] for _ in range(2) for batch in loader]
    again = images_of(known, Invert(False), Cutout(2))
    assert np.array_equal(np.concatenate(kept), np.concatenate([column(again), column(again)]))


def test_an_operation_that_gives_other_images_than_it_says_is_found_out(known):
    with pytest.raises(PipelineError, match=r"declared numpy \(N, 6, 6, 3\).*shape \(8, 12, 12, 3\)"):
        column(images_of(known, Lies(), RandomHorizontalFlip()))

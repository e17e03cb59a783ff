"""Numbers go in as FFCV takes them, and as it should."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import SampleError
from ffcv_gpu.fields import FloatField, IntField


def stored(field, value):
    row = np.zeros(1, field.metadata_type)
    field.encode(row, value, None)
    return row[0]


@pytest.mark.parametrize(
    "value",
    [
        7,
        True,
        np.int64(7),
        np.uint8(200),
        np.bool_(True),
        np.array(7),
        np.array([7]),
        torch.tensor(7),
        torch.tensor([7]),
        torch.tensor(7, dtype=torch.uint8),
        3.0,
        np.float32(-4),
        2**63 - 1,
        -(2**63),
    ],
)
def test_whole_numbers_are_stored(value):
    assert stored(IntField(), value) == (value.item() if hasattr(value, "item") else value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1.7, "float 1.7 is not a whole number"),
        (np.float32(0.5), "not a whole number"),
        (torch.tensor(1.5), "not a whole number"),
        (float("nan"), "not a whole number"),
        (float("inf"), "not a whole number"),
        ("3", r"str '3' is not a whole number; convert it with int\(...\)"),
        ("cat", r"str 'cat' is not a whole number; number the classes, classes.index\(name\)"),
        (None, "NoneType None"),
        ([1], r"list \[1\]"),
        (np.array([1, 2]), "not a whole number"),
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        (np.uint64(2**64 - 1), "64 bits"),
    ],
)
def test_what_ffcv_would_cut_or_crash_on_is_an_error(value, says):
    with pytest.raises(SampleError, match=says):
        stored(IntField(), value)


@pytest.mark.parametrize(
    "value",
    [
        1.7,
        3,
        True,
        np.float32(0.1),
        np.float64(0.1),
        np.array(0.25),
        torch.tensor(0.5),
        Fraction(1, 3),
        2**80,
    ],
)
def test_numbers_are_stored_as_float64(value):
    assert stored(FloatField(), value) == float(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_special_floats(value):
    assert np.array_equal(stored(FloatField(), value), value, equal_nan=True)


@pytest.mark.parametrize("value", ["1.5", None, 1j, np.array([1.0, 2.0]), [1.0]])
def test_other_things_are_no_floats(value):
    with pytest.raises(SampleError, match="is not a number"):
        stored(FloatField(), value)


def test_a_number_too_large_for_a_float():
    with pytest.raises(SampleError, match="too large"):
        stored(FloatField(), 10**400)


def test_long_values_are_cut_in_the_message():
    with pytest.raises(SampleError) as caught:
        stored(IntField(), "x" * 1000)
    assert len(str(caught.value)) < 200

"""Byte strings of every make."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.errors import SampleError
from ffcv_gpu.fields import BytesField

HELLO = b"hello \0 world"


class Memory:
    """A `malloc` over one array."""

    def __init__(self):
        self.bytes = np.full(4096, 255, np.uint8)
        self.asked = []

    def __call__(self, size):
        self.asked.append(size)
        return 1000, self.bytes[:size]


def stored(value):
    memory, row = Memory(), np.zeros(1, BytesField().metadata_type)
    BytesField().encode(row, value, memory)
    assert (row["ptr"][0], memory.asked) == (1000, [row["size"][0]])
    return memory.bytes[: row["size"][0]].tobytes()


@pytest.mark.parametrize(
    "value",
    [
        HELLO,
        bytearray(HELLO),
        memoryview(HELLO),
        np.frombuffer(HELLO, np.uint8),
        np.frombuffer(HELLO, np.uint8).astype(np.int64),
        np.frombuffer(HELLO, np.uint8).astype(np.float32),
        np.repeat(np.frombuffer(HELLO, np.uint8), 2)[::2],
    ],
)
def test_every_make_gives_the_same_bytes(value):
    assert stored(value) == HELLO


@pytest.mark.parametrize("value", [b"", np.zeros(0, np.uint8), np.zeros(0, np.int64)])
def test_empty_values_ask_for_nothing(value):
    assert stored(value) == b""


def test_bools():
    assert stored(np.array([True, False, True])) == b"\1\0\1"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("text", r"encode\('utf-8'\)"),
        (np.array([1.5, 2.5]), "dtype float64.*whole"),
        (np.array([1, np.nan]), "values from nan"),
        (np.array([256.0]), "values from 256"),
        (np.array([1j]), "dtype complex128"),
        (np.array([1, 256]), "values from 1 to 256"),
        (np.array([-1], np.int8), "values from -1"),
        (np.zeros((2, 2), np.uint8), r"shape \(2, 2\)"),
        ([1, 2], "list is not a byte string"),
        (None, "NoneType"),
        (7, "int is not"),
    ],
)
def test_other_things_are_an_error_with_a_way_out(value, says):
    with pytest.raises(SampleError, match=says):
        stored(value)

"""The small functions of FFCV's ``ffcv.utils`` that scripts use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["align_to_page", "chunks", "decode_null_terminated_string", "is_power_of_2", "memcpy"]


def chunks(lst: Any, n: int) -> Iterator[Any]:
    """Yield consecutive slices of `lst` with `n` elements each; the last may be shorter.

    >>> list(chunks([1, 2, 3], 2))
    [[1, 2], [3]]
    """
    for start in range(0, len(lst), n):
        yield lst[start : start + n]


def is_power_of_2(n: int) -> bool:
    """Return True for 1, 2, 4, 8, ..."""
    return n > 0 and n & (n - 1) == 0


def align_to_page(ptr: int, page_size: int) -> int:
    """Return `ptr` rounded up to a multiple of `page_size` (bytes)."""
    return -(-ptr // page_size) * page_size


def decode_null_terminated_string(bytes: Any) -> str:
    """Return the text before the first zero byte of a uint8 array, such as a field name in a descriptor."""
    return str(bytes.tobytes().decode("ascii").partition("\0")[0])


def memcpy(source: Any, dest: Any) -> None:
    """Copy an array's bytes to the start of another, contiguous array, whatever their dtypes and shapes.

    It can be called from functions that numba compiles (FFCV's calls C). numpy raises if `dest` is too small.
    A strided `source` is copied element by element (FFCV copies contiguous memory from its first element on).
    """
    data = np.ascontiguousarray(source).reshape(source.size).view(np.uint8)
    dest.reshape(dest.size).view(np.uint8)[: data.size] = data

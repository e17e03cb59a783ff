"""The small functions of FFCV's ``ffcv.utils`` that scripts use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["align_to_page", "chunks", "is_power_of_2"]


def chunks(lst: Any, n: int) -> Iterator[Any]:
    """Yield slices of `lst` of `n` elements, the last one as long as it is.

    >>> list(chunks([1, 2, 3], 2))
    [[1, 2], [3]]
    """
    for start in range(0, len(lst), n):
        yield lst[start : start + n]


def is_power_of_2(n: int) -> bool:
    """True for 1, 2, 4, 8, ..."""
    return n > 0 and n & (n - 1) == 0


def align_to_page(ptr: int, page_size: int) -> int:
    """Return the first multiple of `page_size` that is not below `ptr` (bytes)."""
    return -(-ptr // page_size) * page_size

"""Checks and normal forms of step arguments; an invalid one is rejected with a one-sentence error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import MAX_SIDE
from ffcv_gpu.steps.specs import FloatArray

__all__ = [
    "Checked",
    "channel_values",
    "crop_range",
    "dtype_name",
    "fill_values",
    "number",
    "numbers",
    "output_pair",
    "resize_name",
    "share",
    "whole",
]

RESIZES = ("area", "antialias")

T = TypeVar("T")


class Checked(Generic[T]):
    """An argument of a step that may be assigned again between epochs: a wrong value is rejected at once.

    Parameters
    ----------
    check : callable
        ``check(value, who)`` returns a value in its normal form, or raises `PipelineError` about `who`.
    """

    def __init__(self, check: Callable[[Any, str], T]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, step: Any, owner: type | None = None) -> T:
        try:
            found: T = vars(step)[self._name]
        except (KeyError, TypeError):  # before its constructor, or of the class
            raise AttributeError(self._name) from None
        return found

    def __set__(self, step: Any, value: Any) -> None:
        vars(step)[self._name] = self._check(value, f"{type(step).__name__}: {self._name}")


def whole(value: Any, what: str, least: float = 0, most: float = math.inf) -> int:
    """Return `value` as int; raise `PipelineError` unless it is a whole number from `least` to `most`."""
    integral = isinstance(value, int | np.integer)
    integral = integral or (isinstance(value, float | np.floating) and float(value).is_integer())
    if integral and least <= value <= most:
        return int(value)
    limits = f" >= {least}" if least > -math.inf else ""
    limits += f" and <= {most}" if most < math.inf else ""
    raise PipelineError(f"{what} must be a whole number{limits}, not {value!r}")


def number(value: Any, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """Return `value` as float; raise `PipelineError` unless it is a finite number from `least` to `most`."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if math.isfinite(found) and least <= found <= most:
        return found
    limits = f" >= {least:g}" if least > -math.inf else ""
    limits += f" and <= {most:g}" if most < math.inf else ""
    raise PipelineError(f"{what} must be a number{limits}, not {value!r}")


def numbers(values: Any, what: str) -> FloatArray:
    """Return a float64 copy of `values`; raise `PipelineError` unless they are finite numbers."""
    try:
        array = np.asarray(values, dtype=np.float64).copy()
    except (TypeError, ValueError, OverflowError) as error:
        raise PipelineError(f"{what} must be numbers, not {values!r}") from error
    if not np.isfinite(array).all():
        raise PipelineError(f"{what} must be finite numbers, not {values!r}")
    return array


def dtype_name(dtype: Any) -> str:
    """Return the canonical name of a numpy or torch dtype, or of its name.

    >>> dtype_name(np.float16), dtype_name("torch.bfloat16")
    ('float16', 'bfloat16')
    """
    if dtype is None or isinstance(dtype, tuple | list | dict):  # numpy's float64, or a record
        raise PipelineError(f"{dtype!r} is not a dtype; give a numpy or torch dtype or its name")
    text = str(dtype)
    if text.startswith("torch."):
        return text.removeprefix("torch.")
    if text == "bfloat16":
        return text
    try:
        found = np.dtype(dtype)
        # numpy cannot look up string types by their name ("str160")
        return found.str if found.kind in "SU" else str(found.name)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"{dtype!r} is not a dtype; give a numpy or torch dtype or its name") from error


def channel_values(values: Any, channels: int, what: str) -> FloatArray:
    """Return `values` as float64 (channels,); a single number, or several equal ones, are repeated.

    Raises
    ------
    PipelineError
        If the number of values is neither 1 nor `channels`.
    """
    array = np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel()
    if array.size and array.size != channels and (array == array[0]).all():
        return np.repeat(array[:1], channels)  # FFCV's defaults are three zeros
    if array.size != channels:
        raise PipelineError(f"{what} has {array.size} values for images of {channels} channels")
    return array


def fill_values(fill: Any, who: str, what: str = "fill") -> tuple[float, ...]:
    """Return a fill colour, the argument `what`, as a tuple of numbers, one per channel or one for all.

    Raises
    ------
    PipelineError
        If it is empty or contains anything but finite numbers.
    """
    try:
        array = np.atleast_1d(np.asarray(fill, dtype=np.float64)).ravel()
    except (TypeError, ValueError, OverflowError) as error:
        raise PipelineError(f"{who}: {what} must be a number or one per channel, not {fill!r}") from error
    if array.size == 0 or not np.isfinite(array).all():
        raise PipelineError(f"{who}: {what} must be finite numbers, not {fill!r}")
    return tuple(array.tolist())


def output_pair(size: Any, who: str) -> tuple[int, int]:
    """Return an output size as (height, width); one number means a square.

    Raises
    ------
    PipelineError
        If it is not one or two positive whole numbers.
    """
    try:
        pair = () if isinstance(size, str) else tuple(size)
    except TypeError:
        pair = (size, size)
    if len(pair) != 2:
        raise PipelineError(f"{who} must be (height, width) in pixels, not {size!r}")
    height, width = (whole(side, who, 1, MAX_SIDE) for side in pair)
    return height, width


def resize_name(resize: str, who: str) -> str:
    """Return `resize`; raise `PipelineError` unless it names a resampling filter."""
    if resize not in RESIZES:
        raise PipelineError(f"{who} must be one of {', '.join(RESIZES)}, not {resize!r}")
    return resize


def share(value: Any, what: str) -> float:
    """Return `value` as float; raise `PipelineError` unless it is a number with 0 < value <= 1."""
    try:
        found = number(value, what, 0, 1)
    except PipelineError:
        found = 0.0
    if found == 0:
        raise PipelineError(f"{what} must be a number > 0 and <= 1, not {value!r}")
    return found


def crop_range(bounds: Any, who: str, upper: float = float("inf")) -> tuple[float, float]:
    """Return (low, high) as floats; raise `PipelineError` unless 0 < low <= high <= upper, and finite."""
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError, OverflowError) as error:
        raise PipelineError(f"{who} must be two numbers, not {bounds!r}") from error
    if not 0 < low <= high <= upper or high == float("inf"):
        most = f" <= {upper:g}" if upper < float("inf") else ""
        raise PipelineError(f"{who} must be (low, high) with 0 < low <= high{most}, not {bounds!r}")
    return low, high

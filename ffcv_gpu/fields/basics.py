"""Numbers: one int64 or float64 per sample, stored in the file's metadata."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import SampleError
from ffcv_gpu.fields.base import Field, Malloc, Plain, at_old_path, plain_number
from ffcv_gpu.format import RECORD_DTYPES, TypeId

__all__ = ["FloatField", "IntField"]

_INT64 = np.iinfo(np.int64)


class IntField(Plain):
    """A whole number, stored as int64.

    Accepts Python and numpy integers, bools, one-element arrays and tensors, and floats without a fractional
    part. (FFCV silently stores 1.7 as 1; here it raises `SampleError`.)
    """

    type_id = TypeId.INT
    default_decoder = "IntDecoder"

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """int64."""
        return RECORD_DTYPES[TypeId.INT]

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return an `IntField`; it has no settings."""
        return IntField()

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return a Python int."""
        return int(record)

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one number; `SampleError` if it is not whole or does not fit into int64."""
        number = value if type(value) is int else _whole(value)
        if not _INT64.min <= number <= _INT64.max:
            raise SampleError(f"{number} does not fit into 64 bits; store it as a FloatField or BytesField")
        destination[0] = number


class FloatField(Plain):
    """A number, stored as float64.

    Accepts real numbers, and one-element arrays and tensors of them.
    """

    type_id = TypeId.FLOAT
    default_decoder = "FloatDecoder"

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """float64."""
        return RECORD_DTYPES[TypeId.FLOAT]

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return a `FloatField`; it has no settings."""
        return FloatField()

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return a Python float."""
        return float(record)

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one number; `SampleError` if it is not a real number or too large for a float64."""
        number = plain_number(value)
        if not isinstance(number, Real):
            raise SampleError(f"{_brief(value)} is not a number; convert it with float(...) in the dataset")
        try:
            destination[0] = float(number)
        except OverflowError:
            raise SampleError(f"{_brief(value)} is too large for a float64") from None


def _whole(value: Any) -> int:
    """Return `value` as an int; `SampleError` if it is not a whole number."""
    number = plain_number(value)
    if isinstance(number, int) or (isinstance(number, float) and number.is_integer()):
        return int(number)
    fix = "convert it with int(...) in the dataset, or use FloatField"
    if isinstance(value, str) and not value.strip().lstrip("+-").isdigit():
        fix = "number the classes, classes.index(name), or use JSONField for texts"
    raise SampleError(f"{_brief(value)} is not a whole number; {fix}")


def _brief(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


__getattr__ = at_old_path(__name__, "BasicDecoder", "FloatDecoder", "IntDecoder")

"""Numbers: one int64 or float64 a sample, kept in the file's metadata."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import SampleError
from ffcv_gpu.fields.base import ARG_TYPE, Field, Malloc, at_old_path, plain_number
from ffcv_gpu.format import RECORD_DTYPES, TypeId

__all__ = ["FloatField", "IntField"]

_INT64 = np.iinfo(np.int64)


class IntField(Field):
    """A whole number, stored as int64.

    Takes Python and numpy integers, bools, 0-d arrays and tensors, and floats without a fraction.
    (FFCV stores 1.7 as 1 without a word; here it is an error.)
    """

    type_id = TypeId.INT
    default_decoder = "IntDecoder"

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """int64."""
        return RECORD_DTYPES[TypeId.INT]

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return an `IntField`; nothing is stored about it."""
        return IntField()

    def to_binary(self) -> Any:
        """Return 1024 zeros."""
        return np.zeros(1, dtype=ARG_TYPE)[0]

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one number; `SampleError` if it is not whole or not in int64."""
        number = value if type(value) is int else _whole(value)
        if not _INT64.min <= number <= _INT64.max:
            raise SampleError(f"{number} does not fit into 64 bits; store it as a FloatField or BytesField")
        destination[0] = number


class FloatField(Field):
    """A number, stored as float64. Takes what `float` takes of numbers, 0-d arrays and tensors."""

    type_id = TypeId.FLOAT
    default_decoder = "FloatDecoder"

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """float64."""
        return RECORD_DTYPES[TypeId.FLOAT]

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return a `FloatField`; nothing is stored about it."""
        return FloatField()

    def to_binary(self) -> Any:
        """Return 1024 zeros."""
        return np.zeros(1, dtype=ARG_TYPE)[0]

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one number; `SampleError` if it is none."""
        number = plain_number(value)
        if not isinstance(number, Real):
            raise SampleError(f"{_brief(value)} is not a number; convert it with float(...) in the dataset")
        try:
            destination[0] = float(number)
        except OverflowError:
            raise SampleError(f"{_brief(value)} is too large for a float64") from None


def _whole(value: Any) -> int:
    """Return the integer that `value` is."""
    number = plain_number(value)
    if isinstance(number, int) or (isinstance(number, float) and number.is_integer()):
        return int(number)
    raise SampleError(
        f"{_brief(value)} is not a whole number; convert it with int(...) in the dataset, or use FloatField"
    )


def _brief(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


__getattr__ = at_old_path(__name__, "BasicDecoder", "FloatDecoder", "IntDecoder")

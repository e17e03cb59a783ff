"""Byte strings of any length: text, encoded audio, anything that a custom decoder reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import SampleError
from ffcv_gpu.fields.base import ByteString, Field, Malloc, at_old_path
from ffcv_gpu.format import TypeId

__all__ = ["BytesField"]


class BytesField(ByteString):
    """A byte string of any length.

    Accepts `bytes`, `bytearray`, `memoryview` and 1-D arrays of whole numbers in 0..255, of any dtype. (FFCV
    rejects Python's byte strings and silently truncates every array value to 8 bits.) A batch is uint8 (N,
    longest of the file), each row padded with zeros.

    Raises
    ------
    SampleError
        While writing, if a value is none of these.
    """

    type_id = TypeId.BYTES

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return a `BytesField`; it has no settings."""
        return BytesField()

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one byte string; `SampleError` if `value` is not one."""
        self.store(destination, _octets(value), malloc)


def _octets(value: Any) -> npt.NDArray[np.uint8]:
    """Return uint8 (n,), a view where that is possible."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return np.frombuffer(value, np.uint8)
    if isinstance(value, str):
        raise SampleError(
            "a str is not a byte string; give value.encode('utf-8'), or use JSONField, whose unpack gives str"
        )
    if not isinstance(value, np.ndarray):
        raise SampleError(
            f"{type(value).__name__} is not a byte string; give bytes, or a 1-D array of dtype uint8"
        )
    if value.ndim != 1 or value.dtype.kind not in "uibf":
        raise SampleError(
            f"an array of dtype {value.dtype} and shape {value.shape} is not a byte string; give a 1-D array"
            " of dtype uint8 (value.reshape(-1).view('u1') for its memory), or use NDArrayField"
        )
    if value.dtype != np.uint8 and value.size and not all_octets(value):
        raise SampleError(
            f"values from {value.min()} to {value.max()} (dtype {value.dtype}) are not a byte string, which"
            " has whole values 0 to 255; value.view('u1') stores the array's memory"
        )
    return value.astype(np.uint8, copy=False)


def all_octets(values: npt.NDArray[Any]) -> bool:
    """Return whether all numbers are whole and in 0..255."""
    whole = values.dtype.kind != "f" or (values == np.trunc(values)).all()
    return bool(whole and 0 <= values.min() <= values.max() <= 255)


__getattr__ = at_old_path(__name__, "BytesDecoder")

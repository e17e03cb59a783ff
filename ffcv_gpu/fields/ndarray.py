"""Arrays and tensors of one dtype and shape."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError, PipelineError, SampleError
from ffcv_gpu.fields.base import ARG_TYPE, Field, Malloc, at_old_path, checked_dtype, checked_shape
from ffcv_gpu.format import ARGUMENT_BYTES, MAX_PAGE_SIZE, RECORD_DTYPES, TypeId

__all__ = ["NDArrayArgsType", "NDArrayField", "TorchTensorField"]

MAX_DIMENSIONS = 32
NDArrayArgsType = np.dtype([("shape", "<u8", MAX_DIMENSIONS), ("type_length", "<u8")])


class NDArrayField(Field):
    """A numpy array; all samples have the same dtype and shape, and both are checked.

    A batch is (N, *shape) of `dtype`.

    Parameters
    ----------
    dtype : numpy dtype
        A plain dtype: numbers, bools, dates, fixed-length strings. Stored little-endian.
    shape : tuple of int, or int
        1 to 32 dimensions, none of size 0.

    Raises
    ------
    PipelineError
        If a file cannot describe that dtype or shape.
    """

    type_id = TypeId.NDARRAY
    pointers = ("",)
    default_decoder = "NDArrayDecoder"

    def __init__(self, dtype: npt.DTypeLike, shape: Sequence[int] | int) -> None:
        who = type(self).__name__
        self.dtype = checked_dtype(dtype, who, "; dtype comes first, then shape").newbyteorder("<")
        self.shape = checked_shape(shape, who)
        if self.dtype.hasobject or self.dtype.kind == "V" or not self.dtype.itemsize:
            raise PipelineError(
                f"{who}: a .beton file cannot hold dtype {self.dtype}; use a plain dtype, one"
                " field for each member of a structure, JSONField for objects"
            )
        if not 1 <= len(self.shape) <= MAX_DIMENSIONS or min(self.shape) < 1:
            raise PipelineError(
                f"{who}: shape {self.shape} must have 1 to {MAX_DIMENSIONS} dimensions of at"
                " least 1 (FFCV misreads other shapes); use IntField or FloatField for single numbers"
            )
        self.element_size = self.dtype.itemsize * math.prod(self.shape)
        if self.element_size >= MAX_PAGE_SIZE:
            raise PipelineError(
                f"{who}: an array of shape {self.shape} takes {self.element_size} bytes; a sample must fit"
                f" into a page, of less than {MAX_PAGE_SIZE}"
            )

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """uint64: the payload's offset in the file."""
        return RECORD_DTYPES[TypeId.NDARRAY]

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return the field that `binary`, uint8 (1024,), describes; `FormatError` if it is invalid."""
        raw = np.asarray(binary).tobytes()
        header = np.frombuffer(raw, NDArrayArgsType, 1)[0]
        text = raw[NDArrayArgsType.itemsize :][: int(header["type_length"])]
        shape = np.trim_zeros(header["shape"], "b").tolist()
        try:
            ((_, name),) = json.loads(text)
            field = NDArrayField(np.dtype(name), shape)
        except (ValueError, TypeError, SyntaxError, RecursionError) as error:  # json's, and numpy's dtypes'
            raise FormatError(
                f"an array field's dtype is stored as {text[:80]!r}, its shape as {shape}: {error}; damaged?"
            ) from error
        field.dtype = np.dtype(name)  # FFCV stores any byte order
        return field

    def to_binary(self) -> Any:
        """Return shape and dtype as FFCV stores them."""
        header = np.zeros(1, NDArrayArgsType)
        header["shape"][0, : len(self.shape)] = self.shape
        text = json.dumps(self.dtype.descr).encode("ascii")
        header["type_length"] = len(text)
        raw = (header.tobytes() + text).ljust(ARGUMENT_BYTES, b"\0")
        return np.frombuffer(raw, ARG_TYPE)[0]

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one array; `SampleError` unless it has this field's dtype (in any byte order) and shape.

        Axes of length 1 may be missing or too many, as with FFCV: a number for the shape (1,).
        """
        if isinstance(value, np.generic):
            value = np.asarray(value)
        if not isinstance(value, np.ndarray):
            raise SampleError(
                f"{type(value).__name__} is not a numpy array; give np.asarray(value, '{self.dtype}')"
            )
        fits = _longer(value.shape) == _longer(self.shape)
        if value.dtype.newbyteorder("=") != self.dtype.newbyteorder("=") or not fits:
            raise SampleError(
                f"an array of dtype {value.dtype} and shape {value.shape}, expected dtype {self.dtype} and"
                f" shape {self.shape}; convert it in the dataset (astype, reshape) or change the field"
            )
        destination[0], storage = malloc(self.element_size)
        storage.view(self.dtype).reshape(self.shape)[...] = value.reshape(self.shape)

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return the array."""
        assert payload is not None
        return np.frombuffer(payload.tobytes(), self.dtype).reshape(self.shape).copy()

    def write_settings(self) -> Mapping[str, Any]:
        """Return dtype and shape."""
        return {"dtype": self.dtype.str, "shape": list(self.shape)}


class TorchTensorField(NDArrayField):
    """A torch tensor; all samples have the same dtype and shape, and both are checked.

    Stored, and loaded, like an `NDArrayField`.

    Parameters
    ----------
    dtype : torch dtype
        One that numpy has too: not bfloat16 (store ``tensor.view(torch.int16)``). A numpy dtype also works.
    shape : tuple of int, or int
        1 to 32 dimensions, none of size 0.

    Raises
    ------
    PipelineError
        If a file cannot describe that dtype or shape.
    """

    type_id = TypeId.TENSOR

    def __init__(self, dtype: Any, shape: Sequence[int] | int) -> None:
        super().__init__(_numpy_dtype(dtype), shape)

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return the field that `binary`, uint8 (1024,), describes; `FormatError` if it is invalid."""
        array = cast(NDArrayField, NDArrayField.from_binary(binary))
        field = TorchTensorField(array.dtype, array.shape)
        field.dtype = array.dtype
        return field

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one tensor; `SampleError` unless it has this field's dtype and shape."""
        if not hasattr(value, "detach"):
            raise SampleError(
                f"{type(value).__name__} is not a torch tensor; give torch.as_tensor(value), or NDArrayField"
            )
        try:
            array = value.detach().cpu().numpy()
        except TypeError as error:
            raise SampleError(
                f"numpy cannot hold a tensor of dtype {value.dtype} ({error}); expected dtype {self.dtype}"
            ) from error
        super().encode(destination, array, malloc)

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return the tensor, on the CPU."""
        import torch

        return torch.from_numpy(super().restore(record, payload))


def _longer(shape: Sequence[int]) -> list[int]:
    """Return the axes longer than 1."""
    return [side for side in shape if side != 1]


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the numpy dtype of a torch dtype; torch is only imported if `dtype` is one of its dtypes."""
    if type(dtype).__module__ != "torch":
        return checked_dtype(dtype, "TorchTensorField")
    import torch

    try:
        found: np.dtype[Any] = torch.zeros(0, dtype=dtype, device="cpu").numpy().dtype
    except (TypeError, RuntimeError) as error:
        raise PipelineError(
            f"TorchTensorField: numpy has no {dtype} ({error}); store tensor.view(torch.int16), view it back"
        ) from error
    return found


__getattr__ = at_old_path(__name__, "NDArrayDecoder")

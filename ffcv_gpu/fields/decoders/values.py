"""Decoders of numbers, arrays and byte strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.base import wrong_field
from ffcv_gpu.steps import Decoder, Source, ValueSpec, dtype_name

__all__ = ["BasicDecoder", "BytesDecoder", "FloatDecoder", "IntDecoder", "NDArrayDecoder"]


class BasicDecoder(Decoder):
    """Base of the decoders of one number per sample, stored in the file's metadata.

    Output: (N, 1) of `dtype`. For a custom field, subclass it and set `dtype`.

    Attributes
    ----------
    dtype : numpy dtype or its name
        The field's `metadata_type`.

    Raises
    ------
    PipelineError
        When the Loader is created, if the field stores anything else.
    """

    dtype: Any = None

    def first_spec(self, source: Source) -> ValueSpec:
        """Return shape (1,); `PipelineError` if `source` holds no such numbers."""
        if self.dtype is None:
            raise PipelineError(
                f"{type(self).__name__} has no dtype; a subclass must set it to the field's metadata_type"
            )
        wanted = np.dtype(self.dtype)
        stored = np.dtype(getattr(source.field, "metadata_type", "V1"))
        if stored != wanted or wanted.names is not None:
            kind = {"i": "integers", "f": "floats"}.get(wanted.kind, f"{wanted} numbers")
            raise wrong_field(self, kind if wanted.itemsize == 8 else f"{wanted} numbers", source)
        return ValueSpec((1,), dtype_name(wanted))


class IntDecoder(BasicDecoder):
    """Read integers. Output: (N, 1) int64."""

    dtype = np.dtype("<i8")


class FloatDecoder(BasicDecoder):
    """Read floating point numbers. Output: (N, 1) float64."""

    dtype = np.dtype("<f8")


class NDArrayDecoder(Decoder):
    """Read arrays of one shape and dtype. Output: (N, *shape) of the field's dtype.

    Raises
    ------
    PipelineError
        When the Loader is created, if the field does not hold arrays of one shape, or their byte order is
        not the machine's.
    """

    def first_spec(self, source: Source) -> ValueSpec:
        """Return the field's shape and dtype; `PipelineError` if it has none."""
        shape, dtype = getattr(source.field, "shape", None), getattr(source.field, "dtype", None)
        if shape is None or dtype is None:
            raise wrong_field(self, "arrays", source)
        if isinstance(dtype, np.dtype) and not dtype.isnative:
            raise PipelineError(
                f"field {source.name!r} holds arrays of dtype {dtype.str}, which is not this machine's byte"
                " order; rewrite the dataset: ffcv_gpu's NDArrayField always stores little-endian"
            )
        return ValueSpec(tuple(int(side) for side in shape), dtype_name(dtype))


class BytesDecoder(Decoder):
    """Read byte strings. Output: (N, longest of the file) uint8, rows padded with zeros.

    (FFCV leaves the rest of a row undefined.)

    Raises
    ------
    PipelineError
        When the Loader is created, if the field holds no byte strings.
    """

    def first_spec(self, source: Source) -> ValueSpec:
        """Return (longest payload,) uint8; `PipelineError` if `source` does not hold byte strings."""
        names = getattr(getattr(source.field, "metadata_type", None), "names", None)
        if not names or "size" not in names:
            raise wrong_field(self, "byte strings", source)
        return ValueSpec((source.max_bytes,), "uint8")

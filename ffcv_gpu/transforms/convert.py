"""Convert: change the dtype, values kept as far as the new type can hold them."""

from __future__ import annotations

from typing import Any

from ffcv_gpu.steps import FloatArray, Lookup, Source, Step, ValueSpec, dtype_name
from ffcv_gpu.transforms.base import cast, torch_dtype

__all__ = ["Convert"]


class Convert(Lookup):
    """Convert to another dtype, as ``tensor.to(dtype)`` does.

    Batches: (N, ...) of any shape, which stays; values are not scaled, and rounded once if the type is
    narrower. To float16, bfloat16 and float32 it is part of the fused launch on images; to any other type it
    works on the finished batch.

    Parameters
    ----------
    target_dtype : dtype
        torch or numpy dtype, or its name.

    Raises
    ------
    PipelineError
        If `target_dtype` names no dtype, or (when the Loader is made) one that the batch's library has not.
    """

    def __init__(self, target_dtype: Any) -> None:
        self.target_dtype = target_dtype
        self._name = dtype_name(target_dtype)

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Step:
        """Return this step; `PipelineError` if the batch is a tensor and torch has no such type."""
        if spec.container == "tensor":
            torch_dtype(self._name, "Convert")
        return self

    def out_dtype(self, dtype: str) -> str:
        """Return the name of the target."""
        return self._name

    def values(self, values: FloatArray) -> FloatArray:
        """Return `values` unchanged; rounding to the target type is the table's last step."""
        return values

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Convert a whole batch: a new array, or the same one if the type is already right."""
        return cast(batch, self._name)

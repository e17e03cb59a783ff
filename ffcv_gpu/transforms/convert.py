"""Convert: change the dtype; values are kept as far as the new dtype can represent them."""

from __future__ import annotations

from typing import Any

from ffcv_gpu.steps import FloatArray, Lookup, Source, Step, ValueSpec, dtype_name
from ffcv_gpu.transforms.base import cast, check_dtype

__all__ = ["Convert"]


class Convert(Lookup):
    """Convert to another dtype, like ``tensor.to(dtype)``.

    Batches: (N, ...) of any shape, which is kept. Values are not scaled; they are rounded once if the dtype
    is narrower. On images, conversion to float16, bfloat16 or float32 is part of the fused launch; conversion
    to any other dtype runs on the finished batch.

    Parameters
    ----------
    target_dtype : dtype
        A torch or numpy dtype, or its name.

    Raises
    ------
    PipelineError
        If `target_dtype` is not a dtype, or (when the Loader is created) the batch's library lacks it.
    """

    def __init__(self, target_dtype: Any) -> None:
        self.target_dtype = target_dtype
        self._name = dtype_name(target_dtype)

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Step:
        """Return this step; `PipelineError` if the batch's library has no such dtype."""
        if self._name != "bfloat16":  # which arrays may be converted to on the way to a tensor
            check_dtype(self._name, spec, "Convert")
        return self

    def out_dtype(self, dtype: str) -> str:
        """Return the name of the target dtype."""
        return self._name

    def values(self, values: FloatArray) -> FloatArray:
        """Return `values` unchanged; rounding to the target dtype is the table's last step."""
        return values

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Convert a whole batch; return a new array, or the same one if the dtype already matches."""
        return cast(batch, self._name)

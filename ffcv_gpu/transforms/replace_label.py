"""ReplaceLabel: give chosen samples another label."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import ArrayStep, ValueSpec, dtype_name, number, whole
from ffcv_gpu.transforms.base import array_module, cast, like, sample_rows

__all__ = ["ReplaceLabel"]


class ReplaceLabel(ArrayStep):
    """Replace the label of chosen samples.

    Labels: (N, 1) or (N,) of any dtype, array or tensor; the result is newly allocated and of the same kind.

    Parameters
    ----------
    indices : sequence of int
        The chosen samples' rows in the file.
    new_label : int
        Their new label.

    Raises
    ------
    PipelineError
        If the indices are not whole numbers >= 0 or the label is no number, or (when the Loader is created)
        if the batch holds images, or is of a dtype that cannot represent the label.
    """

    why = "works on the finished labels"

    def __init__(self, indices: Any, new_label: int) -> None:
        self.indices = sample_rows(indices, "ReplaceLabel")
        number(new_label, "ReplaceLabel: new_label")
        self.new_label = new_label

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec`; `PipelineError` on images, and if the labels' dtype cannot hold the new one."""
        if spec.layout:
            raise PipelineError(f"{self!r} works on labels, not on {spec}; put it into the label's pipeline")
        if spec.dtype is not None and "int" in spec.dtype:
            limits = np.iinfo(spec.dtype)
            whole(self.new_label, f"{self!r}: a label of {spec.dtype}", limits.min, limits.max)
        return spec

    def apply_samples(self, batch: Any, spec: ValueSpec, draws: Draws) -> Any:
        """Return the batch with the labels of chosen samples replaced."""
        replaced = np.isin(draws.samples, self.indices).reshape(-1, *[1] * (batch.ndim - 1))
        label = cast(like(np.asarray(self.new_label), batch), dtype_name(batch.dtype))
        return array_module(batch).where(like(replaced, batch), label, batch)

    def __repr__(self) -> str:
        return f"ReplaceLabel({self.indices.size} samples, new_label={self.new_label!r})"

"""ReplaceLabel: give chosen samples another label."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import ArrayStep, ValueSpec, dtype_name
from ffcv_gpu.transforms.base import array_module, like, sample_rows

__all__ = ["ReplaceLabel"]


class ReplaceLabel(ArrayStep):
    """Replace the label of chosen samples.

    Labels: (N, 1) of any dtype, array or tensor; the result is newly allocated and of the same kind.

    Parameters
    ----------
    indices : sequence of int
        The chosen samples' rows in the file.
    new_label : int
        Their new label.

    Raises
    ------
    PipelineError
        If the indices are not whole numbers >= 0, or (when the Loader is created) if the batch holds images.
    """

    why = "works on the finished labels"

    def __init__(self, indices: Any, new_label: int) -> None:
        self.indices = sample_rows(indices, "ReplaceLabel")
        self.new_label = new_label

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec`; `PipelineError` on images."""
        if spec.layout:
            raise PipelineError(f"{self!r} works on labels, not on {spec}; put it into the label's pipeline")
        return spec

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Raise: the step must know its samples; `apply_samples` does the work."""
        raise PipelineError(f"{self!r} needs to know its samples")

    def apply_samples(self, batch: Any, spec: ValueSpec, draws: Draws) -> Any:
        """Return the batch with the labels of chosen samples replaced."""
        replaced = np.isin(draws.samples, self.indices).reshape(-1, *[1] * (batch.ndim - 1))
        label = like(np.asarray(self.new_label, dtype_name(batch.dtype)), batch)
        return array_module(batch).where(like(replaced, batch), label, batch)

    def __repr__(self) -> str:
        return f"ReplaceLabel({self.indices.size} samples, new_label={self.new_label!r})"

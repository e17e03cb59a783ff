"""What the transforms share: probability checks and access to torch without importing it early."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError

__all__ = ["is_tensor", "probability", "require_torch", "torch_dtype"]


def probability(value: float, who: str) -> float:
    """Return `value` as float; raise `PipelineError` unless it lies in [0, 1]."""
    if not 0.0 <= float(value) <= 1.0:
        raise PipelineError(f"{who}: a probability lies between 0 and 1, not {value!r}")
    return float(value)


def require_torch(who: str) -> ModuleType:
    """Return the torch module; raise `PipelineError` with the line to install if it is missing."""
    try:
        import torch
    except ImportError as error:
        raise PipelineError(
            f"{who} needs PyTorch, which is not installed; pip install 'ffcv-gpu[torch]', "
            "or leave it out of the pipeline to get numpy arrays"
        ) from error
    return torch


def is_tensor(batch: Any) -> bool:
    """True for a torch tensor, without importing torch for numpy arrays."""
    return not isinstance(batch, np.ndarray)


def torch_dtype(name: str, who: str) -> Any:
    """Return the torch dtype called `name` (``"float16"``); `PipelineError` if torch has none."""
    dtype = getattr(require_torch(who), name, None)
    if dtype is None:
        raise PipelineError(f"{who}: torch has no dtype {name!r}")
    return dtype

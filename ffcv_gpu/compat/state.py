"""State: FFCV's description of the batch that an operation receives or returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import ValueSpec, dtype_name
from ffcv_gpu.transforms.base import torch_dtype
from ffcv_gpu.transforms.ops import device_name

__all__ = ["State", "StateSpec", "spec_after", "state_of"]


@dataclass
class State:
    """The batch at one point of a pipeline, as FFCV describes it.

    Parameters
    ----------
    jit_mode : bool
        True: the operation's function is compiled by numba.
    device : torch.device
        Device of the batch (the string ``"cpu"`` if torch is not installed).
    shape : tuple of int or None
        Without the batch axis; None if unknown.
    dtype : numpy or torch dtype, or None
        A torch dtype means that the batch is a tensor. None if unknown.

    Raises
    ------
    AssertionError
        If `jit_mode` is combined with a torch dtype or a device other than the CPU, as in FFCV.
    """

    jit_mode: bool
    device: Any
    shape: Any  # as FFCV's operations use it: AllocationQuery(state.shape, ...) without asking for None
    dtype: Any

    def __post_init__(self) -> None:
        if self.jit_mode and str(self.device).partition(":")[0] != "cpu":
            raise AssertionError("Can't be in JIT mode and on the GPU; pass jit_mode=False")
        if self.jit_mode and str(self.dtype).startswith("torch."):
            raise AssertionError("Can't allow tensor dtype in JIT mode; put the operation before ToTensor()")


@dataclass(frozen=True)
class StateSpec(ValueSpec):
    """A `ValueSpec` with FFCV's `jit_mode`, which the next operation may inherit."""

    jit_mode: bool = True


def state_of(spec: ValueSpec) -> State:
    """Return `spec` as a `State`; arrays are in jit mode unless an earlier operation declared otherwise."""
    tensor = spec.container == "tensor"
    jit_mode = not tensor and getattr(spec, "jit_mode", True)
    dtype: Any = None
    if spec.dtype is not None:
        dtype = torch_dtype(spec.dtype, "an Operation on tensors") if tensor else np.dtype(spec.dtype)
    return State(jit_mode, torch_device(spec.device), spec.shape, dtype)


def spec_after(state: State, before: ValueSpec) -> StateSpec:
    """Return the declared `state` of a result as a spec; an image remains one while it has three axes."""
    tensor = str(state.dtype).startswith("torch.") or (state.dtype is None and before.container == "tensor")
    if state.jit_mode and before.container == "tensor":
        raise PipelineError("a compiled operation works on arrays; put it before ToTensor()")
    shape = _shape_in(state)
    image = shape is None or len(shape) == 3
    return StateSpec(
        shape,
        None if state.dtype is None else dtype_name(state.dtype),
        "tensor" if tensor else "numpy",
        device_name(state.device),
        (before.layout or "HWC") if image else None,
        before.channels_last and image,
        jit_mode=bool(state.jit_mode),
    )


def _shape_in(state: State) -> tuple[int, ...] | None:
    """Return the declared shape; None if it is none: FFCV does not look, published operations rely on it."""
    try:
        return tuple(int(side) for side in state.shape)
    except (TypeError, ValueError):
        return None


def torch_device(name: str) -> Any:
    """Return the torch.device of this name, or the name itself if torch is not installed."""
    try:
        import torch
    except ImportError:
        return name
    return torch.device(name)

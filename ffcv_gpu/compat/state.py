"""State: what FFCV tells an operation of the batch it will be given, and is told of what comes out."""

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
    """One point of a pipeline, in FFCV's words.

    Parameters
    ----------
    jit_mode : bool
        True: the operation's function is compiled by numba.
    device : torch.device
        Where the batch is (the text ``"cpu"`` where torch is not installed).
    shape : tuple of int or None
        Without the batch axis; None if it is not known.
    dtype : numpy or torch dtype, or None
        A torch dtype means that the batch is a tensor. None if it is not known.

    Raises
    ------
    AssertionError
        For `jit_mode` with a torch dtype or off the CPU, as in FFCV.
    """

    jit_mode: bool
    device: Any
    shape: tuple[int, ...] | None
    dtype: Any

    def __post_init__(self) -> None:
        if self.jit_mode and str(self.device).partition(":")[0] != "cpu":
            raise AssertionError("Can't be in JIT mode and on the GPU; give jit_mode=False")
        if self.jit_mode and str(self.dtype).startswith("torch."):
            raise AssertionError("Can't allow tensor dtype in JIT mode; stand before ToTensor()")


@dataclass(frozen=True)
class StateSpec(ValueSpec):
    """A `ValueSpec` that remembers FFCV's `jit_mode`, which the next operation may inherit."""

    jit_mode: bool = True


def state_of(spec: ValueSpec) -> State:
    """Return `spec` in FFCV's words; arrays are in jit mode unless an operation before said otherwise."""
    tensor = spec.container == "tensor"
    jit_mode = not tensor and getattr(spec, "jit_mode", True)
    dtype: Any = None
    if spec.dtype is not None:
        dtype = torch_dtype(spec.dtype, "an Operation on tensors") if tensor else np.dtype(spec.dtype)
    return State(jit_mode, torch_device(spec.device), spec.shape, dtype)


def spec_after(state: State, before: ValueSpec) -> StateSpec:
    """Return what an operation says of its result as a spec; an image stays one while it has three axes."""
    tensor = str(state.dtype).startswith("torch.") or (state.dtype is None and before.container == "tensor")
    if state.jit_mode and before.container == "tensor":
        raise PipelineError("a compiled operation works on arrays; put it before ToTensor()")
    shape = None if state.shape is None else tuple(int(side) for side in state.shape)
    image = shape is None or len(shape) == 3
    return StateSpec(
        shape,
        None if state.dtype is None else dtype_name(state.dtype),
        "tensor" if tensor else "numpy",
        device_name(state.device),
        (before.layout or "HWC") if image else None,
        before.channels_last and image,
        bool(state.jit_mode),
    )


def torch_device(name: str) -> Any:
    """Return torch's object for a device; its name where torch is not installed."""
    try:
        import torch
    except ImportError:
        return name
    return torch.device(name)

"""The steps that change how a batch is represented: ToTensor, ToDevice, ToTorchImage, View, Squeeze."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from ffcv_gpu.device import current_gpu
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import ArrayStep, Represent, ValueSpec, dtype_name, whole
from ffcv_gpu.transforms.base import check_dtype, is_tensor, require_torch, torch_dtype

__all__ = ["Squeeze", "ToDevice", "ToTensor", "ToTorchImage", "View"]


class ToTensor(Represent):
    """Return the batch as a torch tensor that shares memory with the array; nothing is copied.

    Shape (N, ...) and dtype are kept.

    Raises
    ------
    PipelineError
        When the Loader is created, if torch is not installed or has no such dtype.
    """

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec` as a tensor."""
        torch = require_torch("ToTensor")
        if spec.dtype and not isinstance(getattr(torch, spec.dtype, None), torch.dtype):
            raise PipelineError(
                f"ToTensor: torch has no dtype {spec.dtype!r}; give a pipeline without ToTensor"
            )
        return spec.with_(container="tensor")

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return a tensor over the same memory."""
        return batch if is_tensor(batch) else require_torch("ToTensor").from_numpy(batch)


class ToDevice(Represent):
    """Choose the device of the output, and so where the whole pipeline runs.

    With a GPU, everything from JPEG decoding on runs there, wherever `ToDevice` stands in the list. Shape
    (N, ...) and dtype are kept.

    Parameters
    ----------
    device : int, str or torch.device
        ``0``, ``"cuda:0"`` and ``torch.device("cuda", 0)`` are equivalent; ``"cuda"`` is the GPU that
        `torch.cuda.set_device` made current before, else the first; or ``"cpu"``.
    non_blocking : bool, default True
        Kept for FFCV's signature; the copy always precedes the consumer's work on the batch.

    Raises
    ------
    PipelineError
        If `device` is not a device, or (when the Loader is created) if `ToTensor` does not come before.
    BackendUnavailable
        When the Loader is created, if the device cannot be used on this machine.
    """

    def __init__(self, device: Any, non_blocking: bool = True) -> None:
        self.device = device
        self.non_blocking = bool(non_blocking)
        self._name = device_name(device)

    @property
    def target(self) -> str:
        """The device's name: ``"cpu"`` or ``"cuda:N"``."""
        return self._name

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec` on the target device."""
        if self._name != "cpu" and spec.container == "numpy":
            raise PipelineError(f"ToDevice({self.device!r}) needs tensors; put ToTensor() before it")
        return spec.with_(device=self._name)

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return the tensor on the target device."""
        if isinstance(batch, np.ndarray):  # stays on the CPU, see `out_spec`
            return batch
        return batch.to(self._name, non_blocking=self.non_blocking)


class ToTorchImage(Represent):
    """Change images from (N, height, width, channels) to torch's (N, channels, height, width).

    Parameters
    ----------
    channels_last : bool, default True
        True: memory stays (N, H, W, C), which torch calls ``channels_last``; False: contiguous NCHW.
        The fused launch writes either one directly, without an extra pass.
    convert_back_int16 : bool, default True
        Kept for FFCV's signature: int16 input is reinterpreted as float16. Only a custom step can make
        images int16.

    Raises
    ------
    PipelineError
        When the Loader is created, if the batch is not a tensor of (N, H, W, C) images, or of arrays of three
        axes, at that point.
    """

    def __init__(self, channels_last: bool = True, convert_back_int16: bool = True) -> None:
        self.channels_last = bool(channels_last)
        self.convert_back_int16 = bool(convert_back_int16)

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec` with the layout changed."""
        if spec.container != "tensor":
            raise PipelineError("ToTorchImage works on tensors; put ToTensor() before it")
        if spec.layout != "HWC" and not spec.may_be_images:
            raise PipelineError(
                f"ToTorchImage needs (N, H, W, C) images, not {spec}; put it before other layouts"
            )
        dtype = "float16" if spec.dtype == "int16" and self.convert_back_int16 else spec.dtype
        shape = None if spec.shape is None else (spec.shape[2], *spec.shape[:2])
        return spec.with_(shape=shape, dtype=dtype, layout="CHW", channels_last=self.channels_last)

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return a permuted view, or a contiguous copy of it."""
        torch = require_torch("ToTorchImage")
        if batch.ndim != 4:  # known only now, after a module
            raise PipelineError(f"ToTorchImage needs (N, H, W, C) images, not a batch {tuple(batch.shape)}")
        if batch.dtype == torch.int16 and self.convert_back_int16:
            batch = batch.view(torch.float16)
        permuted = batch.permute(0, 3, 1, 2)
        return permuted if self.channels_last else permuted.contiguous()


class View(ArrayStep):
    """View the batch as another dtype, or as another shape, like ``tensor.view(...)``.

    Parameters
    ----------
    target_dtype : dtype, or -1, or (-1, ...)
        A numpy or torch dtype, or its name: the bytes are reinterpreted. The shape (N, ...) is kept if values
        have the same size; otherwise the last axis changes by the ratio of the sizes: int64 (N, 1) becomes
        int32 (N, 2), uint8 (N, 16) becomes float32 (N, 4). Or a shape whose first axis, the batch, is -1:
        ``View(-1)`` turns labels (N, 1) into (N,).

    Raises
    ------
    PipelineError
        If `target_dtype` is neither a dtype nor such a shape, or (when the Loader is created) if the shape
        has another number of values per sample, or if values have another size and the last axis is the
        batch, or channels_last, or its bytes are no whole number of values.
    """

    why = "reinterprets the finished batch; copies nothing"
    only_reshapes = True

    def __init__(self, target_dtype: Any) -> None:
        self.target_dtype = target_dtype
        self._shape: tuple[int, ...] | None = None
        if isinstance(target_dtype, int | tuple | list):
            self._shape = (target_dtype,) if isinstance(target_dtype, int) else tuple(target_dtype)
            if self._shape[:1] != (-1,):
                raise PipelineError(f"View: a shape begins with -1, the batch axis; not {target_dtype!r}")
            self._shape = (-1, *(whole(side, "View: a side of a shape") for side in self._shape[1:]))
        else:
            self._name = dtype_name(target_dtype)

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec` with dtype or shape changed; `PipelineError` if the sizes differ."""
        if self._shape is not None:
            if spec.shape is not None and math.prod(spec.shape) != math.prod(self._shape[1:]):
                raise PipelineError(f"{self!r} does not hold as many values per sample as {spec}")
            return spec.with_(shape=self._shape[1:], layout=None, channels_last=False)
        check_dtype(self._name, spec, "View")
        if spec.dtype is None or spec.shape is None:  # checked in `apply`
            return spec.with_(dtype=self._name, shape=None)
        shape = self._viewed(spec.shape, spec.dtype, not spec.channels_last, str(spec))
        return spec.with_(dtype=self._name, shape=shape)

    def _viewed(self, shape: tuple[int, ...], dtype: str, dense: bool, told: str) -> tuple[int, ...]:
        """Return the shape without the batch axis of a view of such values.

        `dense` says whether the last axis is contiguous in memory.
        """
        before, after = item_size(dtype), item_size(self._name)
        if before == after:
            return shape
        if not shape:
            why = "the last axis is the batch; put View before the step that drops the others"
        elif not dense:
            why = "the last axis is not contiguous; put View before ToTorchImage, or use channels_last=False"
        elif shape[-1] * before % after:
            why = (
                f"the last axis has {shape[-1] * before} bytes, no multiple of {after}; View to a smaller"
                " dtype, or change the shape before (Convert changes the type of each value)"
            )
        else:
            return (*shape[:-1], shape[-1] * before // after)
        raise PipelineError(f"View({self._name}) cannot reinterpret {told}: {why}")

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return a view of the same memory."""
        if self._shape is not None:
            # the shape is unknown until now after a module
            if math.prod(batch.shape[1:]) != math.prod(self._shape[1:]):
                raise PipelineError(f"{self!r} does not hold as many values as a batch {tuple(batch.shape)}")
            return batch.reshape((len(batch), *self._shape[1:]))
        shape, dtype = tuple(batch.shape), dtype_name(batch.dtype)
        self._viewed(shape[1:], dtype, is_dense(batch), f"a batch {shape} of {dtype}")
        if is_tensor(batch):
            return batch.view(torch_dtype(self._name, "View"))
        return batch.view(np.dtype(self._name))


class Squeeze(ArrayStep):
    """Drop axes of size 1, but never the batch axis: labels (N, 1) become (N,).

    Parameters
    ----------
    *dims : int, or one list or tuple of int
        Axes to drop; axis 0 is the batch: ``Squeeze(1)``, ``Squeeze(1, 2)`` or ``Squeeze([1, 2])``. If none
        are given: every other axis of size 1 (FFCV also drops the batch axis of a batch of one).

    Raises
    ------
    PipelineError
        If an axis is 0 or (when the Loader is created) does not exist.
    """

    why = "changes the shape of the finished batch; copies nothing"
    only_reshapes = True

    def __init__(self, *dims: Any) -> None:
        if len(dims) == 1 and isinstance(dims[0], list | tuple):
            dims = tuple(dims[0])
        self.dims = tuple(whole(dim, "Squeeze: an axis", -math.inf) for dim in dims)
        if 0 in self.dims:
            raise PipelineError("Squeeze: axis 0 is the batch and is never dropped; give other axes")

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec` without the dropped axes."""
        if spec.shape is None:
            return spec
        drop = self._axes((1, *spec.shape), str(spec))
        shape = tuple(side for axis, side in enumerate(spec.shape, start=1) if axis not in drop)
        return spec.with_(shape=shape, layout=spec.layout if shape == spec.shape else None)

    def _axes(self, shape: tuple[int, ...], told: str) -> tuple[int, ...]:
        wrong = [dim for dim in self.dims if not -len(shape) < dim < len(shape)]
        if wrong:
            raise PipelineError(f"Squeeze({wrong[0]}): a batch of shape {told} has no such axis")
        chosen = {dim % len(shape) for dim in self.dims} or range(1, len(shape))
        return tuple(axis for axis in chosen if shape[axis] == 1 and axis != 0)

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return a view without the dropped axes."""
        drop = self._axes(tuple(batch.shape), str(tuple(batch.shape)))
        keep = [side for axis, side in enumerate(batch.shape) if axis not in drop]
        return batch.reshape(keep)

    def __repr__(self) -> str:
        return f"Squeeze({', '.join(map(str, self.dims))})"


def device_name(device: Any) -> str:
    """Return ``"cpu"`` or ``"cuda:N"`` for an int, a name or a torch.device; "cuda" is the current GPU.

    Raises
    ------
    PipelineError
        If it is not a device.
    """
    text = f"cuda:{device}" if isinstance(device, int) and not isinstance(device, bool) else str(device)
    kind, _, index = text.partition(":")
    if kind == "cpu" and index in ("", "0"):
        return "cpu"
    if kind == "cuda" and (index == "" or index.isdecimal()):
        return f"cuda:{int(index) if index else current_gpu()}"
    raise PipelineError(f"{device!r} is not a device; give 0, 'cuda:1', 'cpu' or a torch.device")


def is_dense(batch: Any) -> bool:
    """Return whether the last axis of an array or a tensor is contiguous in memory."""
    if is_tensor(batch):
        return bool(batch.stride(-1) == 1)
    return bool(batch.strides[-1] == batch.itemsize)


def item_size(dtype: str) -> int:
    """Return the size of one value of `dtype`, numpy's or torch's, in bytes."""
    try:
        return int(np.dtype(dtype).itemsize)
    except TypeError:
        return int(torch_dtype(dtype, "View").itemsize)


def __getattr__(name: str) -> Any:
    """Provide `Convert` under FFCV's old path, imported on first use: siblings do not import each other."""
    if name not in {"Convert"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("ffcv_gpu.transforms.convert"), name)

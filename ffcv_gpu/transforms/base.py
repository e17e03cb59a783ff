"""Shared by the transforms: argument checks, parts of steps, labels that report what was drawn, torch."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import MAX_SAMPLE, Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import (
    Colour,
    Decoder,
    DrawingStep,
    FloatArray,
    Source,
    Step,
    ValueSpec,
    channel_values,
    number,
    whole,
)

__all__ = [
    "ColourPart",
    "Label",
    "array_module",
    "cast",
    "check_dtype",
    "checked_seed",
    "chosen",
    "factor_range",
    "fill_bytes",
    "is_tensor",
    "like",
    "probability",
    "require_torch",
    "sample_rows",
    "torch_dtype",
]


def probability(value: float, who: str) -> float:
    """Return `value` as float; raise `PipelineError` unless it lies in [0, 1]."""
    try:
        return number(value, who, 0, 1)
    except PipelineError:
        raise PipelineError(f"{who}: a probability lies between 0 and 1, not {value!r}") from None


def checked_seed(seed: int | None, who: str) -> int | None:
    """Return `seed`; raise `PipelineError` unless it is None or a whole number >= 0."""
    return None if seed is None else whole(seed, f"{who}: seed")


def factor_range(
    value: Any, who: str, centre: float = 1.0, bounds: tuple[float, float] = (0.0, float("inf"))
) -> tuple[float, float]:
    """Return the range that a factor is drawn from; one number x means ``centre - x`` to ``centre + x``.

    The range is clipped at 0, unless `centre` is 0 (hue).

    Raises
    ------
    PipelineError
        If `value` is neither one number >= 0 nor (low, high) within `bounds`.
    """
    try:
        pair = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise PipelineError(f"{who} must be one number or (low, high), not {value!r}") from error
    if pair.ndim == 0 and pair >= 0:
        low = centre - float(pair)
        pair = np.array([max(low, 0.0) if centre else low, centre + float(pair)])
    if pair.shape != (2,) or not bounds[0] <= pair[0] <= pair[1] <= bounds[1] or not np.isfinite(pair).all():
        raise PipelineError(
            f"{who} must be one number >= 0, or (low, high) within {bounds[0]:g} to {bounds[1]:g}; "
            f"not {value!r}"
        )
    return float(pair[0]), float(pair[1])


def chosen(u: FloatArray, prob: float) -> npt.NDArray[np.bool_]:
    """Return bool (N,): which samples a step with probability `prob` changes; `u` is uniform, (N,)."""
    picked: npt.NDArray[np.bool_] = u < prob
    return picked


class ColourPart(Colour):
    """One colour operation of a step that performs several from a single draw."""

    def __init__(
        self, owner: Step, name: str, code: int, amounts: Callable[[Draws, int], FloatArray]
    ) -> None:
        self.owner, self.name, self.code, self._amounts = owner, name, code, amounts

    def amounts(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, columns)."""
        return self._amounts(draws, draw)

    def __repr__(self) -> str:
        return f"{type(self.owner).__name__}: {self.name}"


@dataclass(frozen=True)
class RowsSpec(ValueSpec):
    """A batch that holds only the samples' row numbers in the file."""


class SampleRows(Decoder):
    """The decoder of an output that needs only the samples' row numbers, and nothing stored in the file."""

    gives_rows = True

    def first_spec(self, source: Source) -> RowsSpec:
        """Return the spec of row numbers."""
        return RowsSpec((), "int64")


class Label(DrawingStep):
    """Base of FFCV-SSL's ``Label...`` steps, which report as numbers what another step drew.

    After labels (N, k) it appends its columns and converts all of them to float32 (whole numbers up to 2**24
    stay exact). First in a list, or as ``PipelineSpec(field, decoder=Label...)``, it gives only its columns.

    Parameters
    ----------
    step : Step
        A step like the image's, with the same arguments and seed.
    """

    why = "reports what the image's step drew; reads no image"
    stands_first: ClassVar[bool] = True
    columns: ClassVar[int] = 1
    dtype: ClassVar[str] = "float32"
    #: steps with the same draw must have the same arguments, or the label would not match the image
    demands: ClassVar[bool] = True

    def __init__(self, step: Step) -> None:
        self._step = step
        if step.draw_key() is step:
            name = type(step).__name__
            raise PipelineError(
                f"{type(self).__name__} needs a seed: give it and its {name} the same one, such as seed=1"
            )

    def draw_key(self) -> Hashable:
        """Return the image step's draw key."""
        return self._step.draw_key()

    def parameters(self) -> Mapping[str, Any]:
        """Return the image step's arguments."""
        return self._step.parameters()

    @abstractmethod
    def told(self, draws: Draws, draw: int, source: Source) -> FloatArray:
        """Return (N, columns)."""

    def as_decoder(self) -> tuple[Decoder, Step]:
        """Return the decoder and the step that do its work at the start of a pipeline."""
        return SampleRows(), self

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return the spec with the columns appended; `PipelineError` if `spec` is not one of labels."""
        before = spec.shape
        if isinstance(spec, RowsSpec):
            return ValueSpec((self.columns,), self.dtype, device=spec.device)
        if before is None or len(before) > 1 or spec.dtype is None or spec.layout:
            raise PipelineError(
                f"{self!r} appends to labels of shape (N, k), not to {spec}; put it into the label's pipeline"
            )
        return spec.with_(shape=((before[0] if before else 1) + self.columns,), dtype=self.dtype)

    def apply_drawn(self, batch: Any, spec: ValueSpec, draws: Draws, draw: int, source: Source) -> Any:
        """Return the batch with the columns appended."""
        told = self.told(draws, draw, source).astype(self.dtype)
        if isinstance(spec, RowsSpec):
            return told
        before = cast(batch.reshape(len(batch), -1), self.dtype)
        return array_module(batch).concatenate([before, like(told, batch)], 1)


def sample_rows(indices: Any, who: str) -> npt.NDArray[np.int64]:
    """Return `indices`, rows of the file, sorted and without duplicates.

    Raises
    ------
    PipelineError
        If they are not whole numbers >= 0.
    """
    try:
        rows = np.asarray(indices)
    except (TypeError, ValueError):  # lists of different lengths
        rows = np.zeros(1)
    if rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() > MAX_SAMPLE):
        raise PipelineError(f"{who}: indices must be rows of the file, whole numbers >= 0")
    return np.unique(rows).astype(np.int64)


def fill_bytes(fill: Any, channels: int, who: str) -> npt.NDArray[np.uint8]:
    """Return a fill colour, rounded and clipped, uint8 (channels,); `PipelineError` if it does not fit."""
    values = channel_values(fill, channels, f"{who}: fill")
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def require_torch(who: str) -> ModuleType:
    """Return the torch module; raise `PipelineError` with the install command if it is missing."""
    try:
        import torch
    except ImportError as error:
        raise PipelineError(
            f"{who} needs PyTorch, which is not installed; pip install 'ffcv-gpu[torch]', "
            "or leave it out of the pipeline to get numpy arrays"
        ) from error
    return torch


def array_module(batch: Any) -> Any:
    """Return the array library of `batch`: numpy, torch or CuPy."""
    if is_tensor(batch):
        return sys.modules["torch"]
    return np if isinstance(batch, np.ndarray) else sys.modules[type(batch).__module__.partition(".")[0]]


def is_tensor(batch: Any) -> bool:
    """True for a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(batch, torch.Tensor)


def like(array: npt.NDArray[Any], batch: Any) -> Any:
    """Return a numpy array converted to the library and the device of `batch`."""
    module = array_module(batch)
    if module is np:
        return array
    return module.from_numpy(array).to(batch.device) if is_tensor(batch) else module.asarray(array)


def cast(batch: Any, dtype: str) -> Any:
    """Return `batch` converted to `dtype`; `batch` itself if it already has that dtype."""
    if is_tensor(batch):
        return batch.to(torch_dtype(dtype, "a step"))
    return batch.astype(dtype, copy=False)


def check_dtype(name: str, spec: ValueSpec, who: str) -> None:
    """Raise `PipelineError` if the library of a batch of `spec` has no dtype of numbers called `name`."""
    if spec.container == "tensor":
        torch_dtype(name, who)
        return
    try:
        numeric = np.dtype(name).kind in "biufc"
    except TypeError:
        numeric = False
    if not numeric:
        way_out = "; put ToTensor() before it" if spec.container == "numpy" and name == "bfloat16" else ""
        raise PipelineError(f"{who}: numpy has no dtype of numbers {name!r}{way_out}")


def torch_dtype(name: str, who: str) -> Any:
    """Return the torch dtype called `name` (``"float16"``); `PipelineError` if torch has none."""
    torch = require_torch(who)
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise PipelineError(f"{who}: torch has no dtype {name!r}")
    return dtype

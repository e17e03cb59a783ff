"""Subclasses of built-in steps that define code in FFCV's protocol: they run as users' operations."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ffcv_gpu.compat.allocation import Allocation, AllocationQuery
from ffcv_gpu.compat.operation import Operation
from ffcv_gpu.compat.state import State
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import (
    BasicDecoder,
    BytesDecoder,
    CenterCropRGBImageDecoder,
    FloatDecoder,
    IntDecoder,
    NDArrayDecoder,
    RandomResizedCropRGBImageDecoder,
    ResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.steps import Step
from ffcv_gpu.transforms import Cutout, RandomHorizontalFlip, RandomTranslate

__all__ = ["adopted"]


def adopted(step: Step) -> Operation:
    """Return the operation that runs `step`'s code; the same object on every call.

    Raises
    ------
    PipelineError
        If the step does not declare its memory, and `DECLARED` does not know what its base declares in FFCV.
    """
    if "_adopted" not in vars(step):
        if not hasattr(type(step), "declare_state_and_memory") and built_in_base(step) not in DECLARED:
            raise PipelineError(
                f"{type(step).__name__} defines FFCV's generate_code(), but its base, a built-in step, has "
                "no declare_state_and_memory() here; define that as well"
            )
        if isinstance(getattr(step, "fill", None), tuple):
            vars(step)["fill"] = np.array(step.fill)  # type: ignore[attr-defined]  # as FFCV's code has it
        vars(step)["_adopted"] = _Adopted(step)
    operation: Operation = vars(step)["_adopted"]
    return operation


def built_in_base(step: Step) -> type:
    """Return the nearest of the library's own classes among those that `step` is made of."""
    return next(cls for cls in type(step).__mro__ if cls.__module__.startswith("ffcv_gpu."))


def _same_shape(step: Any, state: State) -> tuple[State, Allocation]:
    return replace(state, jit_mode=True), AllocationQuery(state.shape, state.dtype)


def _no_memory(step: Any, state: State) -> tuple[State, Allocation]:
    return replace(state, jit_mode=True), None


def _padded(step: Any, state: State) -> tuple[State, Allocation]:
    height, width, channels = state.shape
    shape = height + 2 * step.padding, width + 2 * step.padding, channels
    return replace(state, jit_mode=True), AllocationQuery(shape, state.dtype)


def _decoded(state: State, shape: Any, dtype: Any, *more: AllocationQuery) -> tuple[State, Allocation]:
    query = AllocationQuery(shape, dtype)
    after = replace(state, jit_mode=True, shape=shape, dtype=np.dtype(dtype))
    return after, (query, *more) if more else query


def _number(step: Any, state: State) -> tuple[State, Allocation]:
    return _decoded(state, (1,), step.dtype)


def _array(step: Any, state: State) -> tuple[State, Allocation]:
    return _decoded(state, tuple(step.field.shape), step.field.dtype)


def _bytes(step: Any, state: State) -> tuple[State, Allocation]:
    return _decoded(state, (int(step.metadata["size"].max()),), np.uint8)


def _whole_image(step: Any, state: State) -> tuple[State, Allocation]:
    heights, widths = step.metadata["height"], step.metadata["width"]
    shape = int(heights.max()), int(widths.max()), 3
    if (heights != shape[0]).any() or (widths != shape[1]).any():
        raise PipelineError("the file's images differ in size; define declare_state_and_memory() as well")
    return _decoded(state, shape, np.uint8)


def _cropped(step: Any, state: State) -> tuple[State, Allocation]:
    largest = 3 * int(step.metadata["height"].max()) * int(step.metadata["width"].max())
    return _decoded(state, (*step.output_size, 3), np.uint8, AllocationQuery((largest,), np.uint8))


#: what FFCV's classes of these names declare: code of subclasses in published libraries counts on it
DECLARED: Mapping[type, Callable[[Any, State], tuple[State, Allocation]]] = {
    RandomHorizontalFlip: _same_shape,
    Cutout: _no_memory,
    RandomTranslate: _padded,
    BasicDecoder: _number,
    IntDecoder: _number,
    FloatDecoder: _number,
    NDArrayDecoder: _array,
    BytesDecoder: _bytes,
    SimpleRGBImageDecoder: _whole_image,
    ResizedCropRGBImageDecoder: _cropped,
    RandomResizedCropRGBImageDecoder: _cropped,
    CenterCropRGBImageDecoder: _cropped,
}


class _Adopted(Operation):
    """Forwards FFCV's protocol to a step, and to `Operation` for methods the step does not define.

    FFCV's built-in decoders and transforms are operations, and users derive their own from them. Here a
    built-in step only describes what to do, so a subclass with a `generate_code` counts as an operation and
    nothing else.
    """

    def __init__(self, step: Step) -> None:
        self.step = step

    def _ask(self, name: str, *arguments: Any) -> Any:
        return getattr(type(self.step), name, getattr(Operation, name))(self.step, *arguments)

    def accept_field(self, field: Any) -> None:
        self._ask("accept_field", field)

    def accept_globals(self, metadata: Any, memory_read: Any) -> None:
        self._ask("accept_globals", metadata, memory_read)

    def generate_code(self) -> Callable[..., Any]:
        code: Callable[..., Any] = self._ask("generate_code")
        return code

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, Allocation]:
        step = self.step
        if not hasattr(type(step), "declare_state_and_memory"):
            return DECLARED[built_in_base(step)](step, previous_state)
        answer: tuple[State, Allocation] = self._ask("declare_state_and_memory", previous_state)
        return answer

    def declare_shared_memory(self, previous_state: State) -> AllocationQuery | None:
        query: AllocationQuery | None = self._ask("declare_shared_memory", previous_state)
        return query

    def generate_code_for_shared_state(self) -> Callable[..., Any] | None:
        code: Callable[..., Any] | None = self._ask("generate_code_for_shared_state")
        return code

    def __repr__(self) -> str:
        names = inspect.signature(type(self.step).__init__).parameters
        given = {name: getattr(self.step, name) for name in names if hasattr(self.step, name)}
        arguments = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in given.items())
        return f"{type(self.step).__name__}({arguments})"

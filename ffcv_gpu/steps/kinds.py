"""The base class of every step, and its kinds; see the package's docstring."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps.specs import BoxArray, FloatArray, IntArray, Source, ValueSpec

__all__ = [
    "ArrayStep",
    "Colour",
    "Decoder",
    "DrawingStep",
    "Erase",
    "ImagePass",
    "Lookup",
    "Mirror",
    "Represent",
    "Sampling",
    "Shift",
    "Step",
    "printed",
]


class Step:
    """Base of everything that a pipeline may contain; a description without behaviour of its own.

    Steps are compared by identity and must not change after construction, except for the arguments of crops
    (`Checked`: FFCV's users reassign a decoder's `output_size`), which count from the next epoch on.
    """

    #: True: only a CPU can do it, so its whole pipeline runs there and the result is uploaded
    needs_host: bool = False

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    #: names the random numbers of steps with an explicit ``seed=``: equal names and seeds share them
    draw_name: ClassVar[str] = ""
    #: True: other steps with the same draw must have the same arguments
    demands: ClassVar[bool] = False

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Step:
        """Return the step to use in an output of `source`, after a batch of `spec`: by default this one."""
        return self

    @property
    def only_moves(self) -> bool:
        """Whether a step on images changes no values, only which pixels are shown."""
        return False

    def parts(self) -> Sequence[Step]:
        """Return the steps that do this step's work, in order; they share its random draw."""
        return (self,)

    def draw_key(self) -> Hashable:
        """Return the owner of the random draw: this object, or all steps that return the same tuple."""
        seed = getattr(self, "seed", None)
        return self if seed is None else ("seed", self.draw_name or type(self).__name__, int(seed))

    def parameters(self) -> Mapping[str, Any]:
        """Return the constructor's arguments by name, for printing."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    def __repr__(self) -> str:
        """Show the arguments that differ from their defaults."""
        defaults = printed_defaults(type(self).__init__)
        given = {name: printed(value) for name, value in self.parameters().items()}
        differing = (f"{name}={text}" for name, text in given.items() if text != defaults.get(name))
        return f"{type(self).__name__}({', '.join(differing)})"


@functools.lru_cache(maxsize=256)
def printed_defaults(constructor: Callable[..., None]) -> Mapping[str, str]:
    """Return the defaults by name, as text; cached, because each epoch prints its steps."""
    parameters = inspect.signature(constructor).parameters
    return {name: printed(parameter.default) for name, parameter in parameters.items()}


def printed(value: Any) -> str:
    """Return `value` as a user would write it; arrays and floats with six digits."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(printed, value))})" if len(value) > 1 else repr(value)
    return repr(value)


class Decoder(Step, ABC):
    """A step that may only come first in a pipeline: it says how a stored value is read."""

    #: True: the batch begins as row numbers of the file, and a step after the decoder reads the values
    gives_rows: ClassVar[bool] = False

    @abstractmethod
    def first_spec(self, source: Source) -> ValueSpec:
        """Return the spec of a decoded batch of `source`; raise `PipelineError` if it cannot decode it."""


class Sampling(Step, ABC):
    """Crops a rectangle out of the source image and resamples it.

    `resize` names the filter: ``"area"`` (FFCV's; OpenCV INTER_AREA) or ``"antialias"`` (Pillow's and
    torchvision's antialiased bilinear).
    """

    resize: str = "area"

    @abstractmethod
    def frame(self) -> tuple[int, int] | None:
        """Return the output's (height, width) in pixels; None keeps the source's size."""

    @abstractmethod
    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return the crops, int32 (N, 4): y, x, height, width in source pixels, inside the source."""

    def remark(self) -> str:
        """Return what ``loader.explain()`` adds about the crops, "" for nothing."""
        return ""


class Mirror(Step, ABC):
    """Mirrors some samples left to right, or upside down."""

    #: True: upside down
    vertical: ClassVar[bool] = False

    @property
    def only_moves(self) -> bool:
        """True."""
        return True

    @abstractmethod
    def mirrored(self, draws: Draws, draw: int) -> npt.NDArray[np.bool_]:
        """Return bool (N,): which samples are mirrored."""


class Shift(Step, ABC):
    """Moves each sample.

    Pixels from outside the image get the value `fill`; if `only_moves`, they show the image's reflection.
    """

    fill: Sequence[float]

    @abstractmethod
    def offsets(self, draws: Draws, draw: int) -> IntArray:
        """Return int64 (N, 2): (dy, dx), so that output (y, x) shows input (y + dy, x + dx)."""

    def check(self, height: int, width: int) -> None:
        """Raise `PipelineError` if the step cannot work on images of this size."""


class Erase(Step, ABC):
    """Overwrites a rectangle of each sample with `fill`."""

    fill: Sequence[float]

    @abstractmethod
    def rectangles(self, draws: Draws, draw: int, height: int, width: int) -> IntArray:
        """Return int64 (N, 4): y0, x0, y1, x1, half open, in pixels of a (height, width) image."""

    def check(self, height: int, width: int) -> None:
        """Raise `PipelineError` if the step cannot work on images of this size."""


class Colour(Step, ABC):
    """Computes each pixel from its own 8-bit values; part of the fused launch, then rounded to uint8.

    Attributes
    ----------
    code : int
        The operation of `kernels.codes`. For CONTRAST a separate launch measures the mean.
    """

    code: int = 0

    @abstractmethod
    def amounts(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, columns): the operation's parameters; only the factor for CONTRAST."""


class ImagePass(Step, ABC):
    """Needs more than the pixel itself: a separate launch between two fused ones, on uint8 images.

    Attributes
    ----------
    kernel : int
        A launch of `kernels.pass_codes`, which describes its parameter columns.
    why : str
        Why it is not part of the fused launch; shown by ``loader.explain()``.
    """

    kernel: int
    why: str

    @abstractmethod
    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        """Return the parameters, float64 (N, columns), for images of (height, width) pixels."""

    def constants(self, height: int, width: int, channels: int) -> tuple[npt.NDArray[Any], ...]:
        """Return the arrays that are the same for every sample and batch."""
        return ()

    def check(self, height: int, width: int, channels: int) -> None:
        """Raise `PipelineError` if the step cannot work on images of this size."""


class Lookup(Step, ABC):
    """A function of one value of one channel; on 8-bit input it becomes a table of 256 entries."""

    @abstractmethod
    def out_dtype(self, dtype: str) -> str:
        """Return the name of the output's dtype for this input dtype."""

    @abstractmethod
    def values(self, values: FloatArray) -> FloatArray:
        """Map values, float64 (channels, 256), before they are rounded to the output dtype."""

    @abstractmethod
    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Apply the step to a whole batch (numpy array or tensor); used where it could not be fused."""


class Represent(Step, ABC):
    """Changes container, device or layout, but no value."""

    @abstractmethod
    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return the output's spec for the input's `spec`; `PipelineError` if the step cannot come there."""

    @abstractmethod
    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Apply the step to a whole batch whose spec is `spec`; used where it could not be fused."""


class ArrayStep(Step, ABC):
    """Works on the whole batch after the fused launch (torch modules, reshapes)."""

    #: why the step is not part of the fused launch; shown by ``loader.explain()``
    why: str = "works on the finished batch"
    #: True: any of the loader's threads may call it, for several batches at once and in any order
    any_thread: bool = False
    #: True: takes microseconds, whatever the size of the batch
    only_reshapes: bool = False
    #: True: it may be called with a `Ragged`
    takes_ragged: bool = False

    @abstractmethod
    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return the output's spec for the input's `spec`; `PipelineError` if the step cannot come there."""

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return the new batch; `batch` is a numpy array or tensor as `spec` says.

        A step that needs to know more than the batch defines one of the next two methods instead.
        """
        raise PipelineError(f"{self!r} needs to know its samples")

    def apply_samples(self, batch: Any, spec: ValueSpec, draws: Draws) -> Any:
        """`apply` for a step that needs to know which samples these are, or draws numbers for them."""
        return self.apply(batch, spec)

    def apply_planned(self, batch: Any, spec: ValueSpec, plan: Any) -> Any:
        """`apply` for a step that needs to know how the batch's images are processed (`plan.BatchPlan`)."""
        return self.apply_samples(batch, spec, plan.draws)


class DrawingStep(ArrayStep, ABC):
    """An `ArrayStep` with a random draw of its own."""

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> ArrayStep:
        """Return the step bound to its draw."""
        return _Bound(self, draw, source)

    @abstractmethod
    def apply_drawn(self, batch: Any, spec: ValueSpec, draws: Draws, draw: int, source: Source) -> Any:
        """Return the new batch; the step's random numbers are ``draws.uniform(draw, count)``."""


class _Bound(ArrayStep):
    """A `DrawingStep` bound to its place in one output."""

    def __init__(self, step: DrawingStep, draw: int, source: Source) -> None:
        self.step, self.draw, self.source = step, draw, source
        self.why = step.why

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        return self.step.out_spec(spec)

    def apply_samples(self, batch: Any, spec: ValueSpec, draws: Draws) -> Any:
        return self.step.apply_drawn(batch, spec, draws, self.draw, self.source)

    def __repr__(self) -> str:
        return repr(self.step)

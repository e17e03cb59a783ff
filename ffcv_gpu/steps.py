"""What a pipeline is made of: the base class of every decoder and transform, by kind.

A step is a *description*: an immutable object that says what shall happen, prints itself and is
compared by identity (the same object in two pipelines shares its random draw). How its work is done is
decided elsewhere: `ffcv_gpu.pipeline` sorts steps into fused stages and a tail, `ffcv_gpu.plan` asks
them for the parameters of a batch, `ffcv_gpu.compose` launches the kernels.

The kinds, and what each promises:

=============  =====================================================================================
`Sampling`     which rectangle of the source is resampled to which size (crops, resizes)
`Mirror`       which samples are mirrored left to right
`Shift`        by how much each sample is moved, and what fills the gap
`Erase`        which rectangle of each sample is overwritten
`Colour`       a function of the 8-bit values of one pixel, with numbers drawn for each sample
`Lookup`       a function of one 8-bit value of one channel (normalise, convert)
`ImagePass`    reads more than one pixel for each: works on finished 8-bit images, in a launch of its own
`Represent`    container, device or layout, no value changes
`ArrayStep`    anything else: works on the whole batch, after the fused launch
=============  =====================================================================================
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError

__all__ = [
    "ArrayStep",
    "Colour",
    "Decoder",
    "DrawingStep",
    "Erase",
    "ImagePass",
    "Lookup",
    "Mirror",
    "Ragged",
    "Represent",
    "Sampling",
    "Shift",
    "Source",
    "Step",
    "ValueSpec",
    "channel_values",
    "crop_range",
    "dtype_name",
    "fill_values",
    "output_pair",
    "printed",
    "resize_name",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoxArray = npt.NDArray[np.int32]

RESIZES = ("area", "antialias")


@dataclass(frozen=True)
class ValueSpec:
    """What one output looks like at a point of its pipeline.

    Attributes
    ----------
    shape : tuple of int or None
        Shape without the batch axis; images as their `layout` says. None after a step whose result
        cannot be known without running it (a torch module).
    dtype : str or None
        Name shared by numpy and torch (``"uint8"``, ``"float16"``, ``"bfloat16"``, ...).
    container : str
        ``"numpy"``, ``"tensor"`` (torch), or ``"cupy"`` (on a GPU without torch).
    device : str
        ``"cpu"`` or ``"cuda:N"``.
    layout : str or None
        ``"HWC"`` or ``"CHW"`` for images, else None.
    channels_last : bool
        True if a ``"CHW"`` image lies in memory as (N, H, W, C).
    """

    shape: tuple[int, ...] | None
    dtype: str | None
    container: str = "numpy"
    device: str = "cpu"
    layout: str | None = None
    channels_last: bool = False

    def with_(self, **changes: Any) -> ValueSpec:
        """Return a copy with the given attributes changed."""
        return replace(self, **changes)

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ", ".join(["N", *map(str, self.shape)])
        memory = ", channels_last" if self.channels_last else ""
        return f"{self.container} ({shape}) {self.dtype or '?'} on {self.device}{memory}"


@dataclass(frozen=True)
class Source:
    """What the file says about one field, as far as a decoder needs it.

    `heights` and `widths` are those of the loader's samples (pixels, int64), None if the field is no
    image, whose pixels have `channels` values of `dtype`; `nearest` says that these name things, between
    which there is nothing. `max_bytes` is the longest payload of the whole file. `records` is the field's
    metadata column (whole file), `data` the file's bytes (uint8) and `allocations` its table: for users'
    own decoders. `memo` is the loader's: what a step may keep from one reading of the pipelines to the next.
    """

    name: str
    field: Any
    heights: IntArray | None = None
    widths: IntArray | None = None
    max_bytes: int = 0
    channels: int = 3
    dtype: str = "uint8"
    nearest: bool = False
    records: Any = None
    data: Any = None
    allocations: Any = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def fits_gpu(self) -> bool:
        """False for images that only the CPU composes: the batch is uploaded."""
        return self.dtype == "uint8" and self.channels in (1, 3, 4)


class Ragged(NamedTuple):
    """A batch of arrays of any length: two arrays, or two tensors.

    Attributes
    ----------
    values : (total, ...)
        One sample behind the other.
    offsets : int64 (N + 1,)
        Sample k's are ``values[offsets[k]:offsets[k + 1]]``.
    """

    values: Any
    offsets: Any


class Step:
    """Base of everything that may stand in a pipeline; a description without behaviour of its own.

    Subclasses are compared by identity and must not change after construction (decoders' `output_size`
    excepted, which FFCV's users reassign between epochs).
    """

    #: True: only a CPU can do it, so that its whole pipeline runs there and the result is uploaded
    needs_host: bool = False

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    #: name of the random numbers of steps with an explicit ``seed=``: steps of one name and seed share them
    draw_name: ClassVar[str] = ""
    #: True: other steps with the same draw must have the same arguments
    demands: ClassVar[bool] = False

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Step:
        """Return what stands for this step in an output of `source`, behind a batch of `spec`: itself."""
        return self

    def parts(self) -> Sequence[Step]:
        """Return the steps that do this one's work, in order; they share its random draw."""
        return (self,)

    def draw_key(self) -> Hashable:
        """Return what the random draw belongs to: this object, or all steps that give the same tuple."""
        seed = getattr(self, "seed", None)
        return self if seed is None else ("seed", self.draw_name or type(self).__name__, int(seed))

    def parameters(self) -> Mapping[str, Any]:
        """Return the constructor's arguments by name, for printing."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    def __repr__(self) -> str:
        """Print the arguments that are not their defaults."""
        signature = inspect.signature(type(self).__init__).parameters
        defaults = {name: parameter.default for name, parameter in signature.items()}
        given = {name: printed(value) for name, value in self.parameters().items()}
        differing = (
            f"{n}={text}" for n, text in given.items() if text != printed(defaults.get(n, signature))
        )
        return f"{type(self).__name__}({', '.join(differing)})"


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
    """A step that may stand only at the head of a pipeline: it says how a stored value is read."""

    #: True: the batch begins as row numbers of the file, and a step behind the decoder reads the values
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


class Mirror(Step, ABC):
    """Mirrors some samples left to right."""

    @abstractmethod
    def mirrored(self, draws: Draws, draw: int) -> npt.NDArray[np.bool_]:
        """Return bool (N,): which samples are mirrored."""


class Shift(Step, ABC):
    """Moves each sample; what comes in from outside has the value `fill`."""

    fill: Sequence[float]

    @abstractmethod
    def offsets(self, draws: Draws, draw: int) -> IntArray:
        """Return int64 (N, 2): (dy, dx), so that output (y, x) shows input (y + dy, x + dx)."""


class Erase(Step, ABC):
    """Overwrites a rectangle of each sample with `fill`."""

    fill: Sequence[float]

    @abstractmethod
    def rectangles(self, draws: Draws, draw: int, height: int, width: int) -> IntArray:
        """Return int64 (N, 4): y0, x0, y1, x1, half open, in pixels of a (height, width) image."""

    def check(self, height: int, width: int) -> None:
        """Raise `PipelineError` if the step cannot work on images of this size."""


class Colour(Step, ABC):
    """Changes each pixel by its own 8-bit values alone; part of the fused launch, rounded to uint8 after it.

    Attributes
    ----------
    code : int
        The operation of `kernels.codes`. For CONTRAST the mean is measured in a launch of its own.
    """

    code: int = 0

    @abstractmethod
    def amounts(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N, columns): the operation's parameters; of CONTRAST the factor alone."""


class ImagePass(Step, ABC):
    """Needs more of an image than one pixel: a launch of its own, between two fused ones, on uint8 images.

    Attributes
    ----------
    kernel : int
        A launch of `kernels.pass_codes`, which says what its columns of parameters are.
    why : str
        Why it is not part of the fused launch; shown by ``loader.explain()``.
    """

    kernel: int
    why: str

    @abstractmethod
    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        """Return float64 (N, columns) for images of (height, width) pixels."""

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
        """Do the same to a whole batch (numpy array or tensor); used where it could not be fused."""


class Represent(Step, ABC):
    """Changes container, device or layout, and no value."""

    @abstractmethod
    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return what the step makes of `spec`; raise `PipelineError` if it cannot stand there."""

    @abstractmethod
    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Do it to a whole batch whose spec is `spec`; used where it could not be fused."""


class ArrayStep(Step, ABC):
    """Works on the whole batch after the fused launch (torch modules, reshapes)."""

    #: why the step is not part of the fused launch; shown by ``loader.explain()``
    why: str = "works on the finished batch"

    @abstractmethod
    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return what the step makes of `spec`; raise `PipelineError` if it cannot stand there."""

    @abstractmethod
    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return the new batch; `batch` is a numpy array or tensor as `spec` says."""

    def apply_samples(self, batch: Any, spec: ValueSpec, draws: Draws) -> Any:
        """`apply` for a step that wants to know which samples these are, or draws numbers for them."""
        return self.apply(batch, spec)

    def apply_planned(self, batch: Any, spec: ValueSpec, plan: Any) -> Any:
        """`apply` for a step that wants to know what is done to the batch's images: its `plan.BatchPlan`."""
        return self.apply_samples(batch, spec, plan.draws)


class DrawingStep(ArrayStep, ABC):
    """An `ArrayStep` with a random draw of its own."""

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> ArrayStep:
        """Return the step with its draw."""
        return _Bound(self, draw, source)

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Refuse: such a step is told which samples it works on."""
        raise PipelineError(f"{self!r} needs to know its samples")

    @abstractmethod
    def apply_drawn(self, batch: Any, spec: ValueSpec, draws: Draws, draw: int, source: Source) -> Any:
        """Return the new batch; the step's numbers are ``draws.uniform(draw, count)``."""


class _Bound(ArrayStep):
    """A `DrawingStep` in its place in one output."""

    def __init__(self, step: DrawingStep, draw: int, source: Source) -> None:
        self.step, self.draw, self.source = step, draw, source
        self.why = step.why

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        return self.step.out_spec(spec)

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        return self.step.apply(batch, spec)

    def apply_samples(self, batch: Any, spec: ValueSpec, draws: Draws) -> Any:
        return self.step.apply_drawn(batch, spec, draws, self.draw, self.source)

    def __repr__(self) -> str:
        return repr(self.step)


def dtype_name(dtype: Any) -> str:
    """Return the canonical name of a numpy or torch dtype, or of its name.

    >>> dtype_name(np.float16), dtype_name("torch.bfloat16")
    ('float16', 'bfloat16')
    """
    text = str(dtype)
    if text.startswith("torch."):
        return text.removeprefix("torch.")
    if text == "bfloat16":
        return text
    try:
        return str(np.dtype(dtype).name)
    except TypeError as error:
        raise PipelineError(f"{dtype!r} is not a dtype; give a numpy or torch dtype or its name") from error


def channel_values(values: Any, channels: int, what: str) -> FloatArray:
    """Return `values` as float64 (channels,); one number is repeated, as are several equal ones.

    Raises
    ------
    PipelineError
        If the number of values is neither 1 nor `channels`.
    """
    array = np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel()
    if array.size and array.size != channels and (array == array[0]).all():
        return np.repeat(array[:1], channels)  # FFCV's defaults are three zeros
    if array.size != channels:
        raise PipelineError(f"{what} has {array.size} values for images of {channels} channels")
    return array


def fill_values(fill: Any, who: str) -> tuple[float, ...]:
    """Return a fill colour as a tuple of numbers, one a channel or one for all.

    Raises
    ------
    PipelineError
        If it is empty or not made of finite numbers.
    """
    try:
        array = np.atleast_1d(np.asarray(fill, dtype=np.float64)).ravel()
    except (TypeError, ValueError) as error:
        raise PipelineError(f"{who}: fill must be a number or one number a channel, not {fill!r}") from error
    if array.size == 0 or not np.isfinite(array).all():
        raise PipelineError(f"{who}: fill must be finite numbers, not {fill!r}")
    return tuple(array.tolist())


def output_pair(size: Any, who: str) -> tuple[int, int]:
    """Return an output size as (height, width); one number means a square.

    Raises
    ------
    PipelineError
        If it is not one or two positive whole numbers.
    """
    pair = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(pair) != 2 or any(int(side) != side or side < 1 for side in pair):
        raise PipelineError(f"{who}: output_size must be (height, width) in whole pixels, not {size!r}")
    return int(pair[0]), int(pair[1])


def resize_name(resize: str, who: str) -> str:
    """Return `resize`; raise `PipelineError` unless it names a resampling filter."""
    if resize not in RESIZES:
        raise PipelineError(f"{who}: resize must be one of {', '.join(RESIZES)}, not {resize!r}")
    return resize


def crop_range(bounds: Any, who: str, upper: float = float("inf")) -> tuple[float, float]:
    """Return (low, high) as floats; raise `PipelineError` unless 0 < low <= high <= upper."""
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"{who} must be two numbers, not {bounds!r}") from error
    if not 0 < low <= high <= upper:
        raise PipelineError(f"{who} must be (low, high) with 0 < low <= high <= {upper}, not {bounds!r}")
    return low, high

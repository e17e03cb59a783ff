"""How one output is computed: launches on images first, then a tail of whole-batch steps. Data only.

An image stage is one launch: a fused one (`FusedStage`), or one that needs more than the pixel itself
(`PassStage`) and works on the 8-bit images of the launch before it. The last stage is always a fused one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.kernels.codes import CONTRAST
from ffcv_gpu.steps import (
    ArrayStep,
    Colour,
    Decoder,
    Erase,
    ImagePass,
    Lookup,
    Mirror,
    Ragged,
    Represent,
    Sampling,
    Shift,
    ValueSpec,
)

__all__ = ["Action", "FusedStage", "PassStage", "Program", "Stage", "Tail"]


@dataclass(frozen=True)
class Action:
    """One step of a fused stage after its sampling; `late` if it fills with values after the lookup."""

    step: Mirror | Shift | Erase | Colour
    draw: int
    late: bool


@dataclass(frozen=True)
class FusedStage:
    """One launch: sample, mirror, shift, erase, colour, look up, and write with the right dtype and layout.

    A contrast needs the mean of the grey image; a small launch then measures it on the stage's source first.

    Attributes
    ----------
    sampling, draw
        What is cropped from the source, and the id of its random draw.
    frame : (int, int)
        Output height and width in pixels.
    actions : tuple of Action
        In the order the user wrote them.
    table : uint8, uint16 or uint32, (channels, 256)
        Bits of the output value for each 8-bit value.
    dtype : str
        Name of the output dtype whose bits `table` holds.
    planar : bool
        True: memory is (N, C, H, W); False: (N, H, W, C).
    resize : str
        The filter: `sampling`'s, or "nearest" for a field whose values are class numbers.
    wide : str
        "" for 8-bit images. Else the name of their dtype, to which `table` does not apply.
    """

    sampling: Sampling
    draw: int
    frame: tuple[int, int]
    actions: tuple[Action, ...]
    table: npt.NDArray[np.unsignedinteger]
    dtype: str
    planar: bool
    resize: str = "area"
    wide: str = ""

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.table.shape[0])

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """Shape of one sample in memory."""
        height, width = self.frame
        return (self.channels, height, width) if self.planar else (height, width, self.channels)

    @property
    def measures(self) -> bool:
        """True if the mean of the grey source is measured before the launch."""
        return any(isinstance(a.step, Colour) and a.step.code == CONTRAST for a in self.actions)


@dataclass(frozen=True)
class PassStage:
    """One launch from uint8 images (N, H, W, C) to images of the same kind.

    Attributes
    ----------
    step, draw
        The step, and the id of its random draw.
    frame : (int, int)
        Output height and width in pixels.
    channels : int
    """

    step: ImagePass
    draw: int
    frame: tuple[int, int]
    channels: int

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """Shape of one sample in memory."""
        return (*self.frame, self.channels)


Stage = FusedStage | PassStage


@dataclass(frozen=True)
class Tail:
    """One step after the fused launch, and the spec of its input batch."""

    step: ArrayStep | Represent | Lookup
    spec: ValueSpec

    @property
    def any_thread(self) -> bool:
        """True if several batches may be in the step at once, each in a thread of its own."""
        if isinstance(self.step, ArrayStep):
            return self.step.any_thread
        return isinstance(self.step, Lookup) and self.spec.container == "numpy"  # torch has its own threads

    def apply(self, batch: Any, plan: Any) -> Any:
        """Return the step's output for `batch`; `plan` is the batch's `plan.BatchPlan`."""
        if isinstance(self.step, ArrayStep):
            return self.step.apply_planned(batch, self.spec, plan)
        if not isinstance(batch, Ragged):
            return self.step.apply(batch, self.spec)
        values = self.step.apply(batch.values, self.spec)
        stays = isinstance(self.step, Lookup)  # offsets are numbers of rows, whatever the values become
        return Ragged(values, batch.offsets if stays else self.step.apply(batch.offsets, self.spec))


@dataclass(frozen=True)
class Program:
    """How one output is computed.

    Attributes
    ----------
    name, field
        Name of the output, and of the field it comes from.
    decoder : Decoder
        The pipeline's decoder.
    stages : tuple of FusedStage or PassStage
        Empty for outputs that are not images.
    fused : ValueSpec
        The output as the last stage (or the read) leaves it.
    tail : tuple of Tail
    spec : ValueSpec
        The output as the consumer receives it.
    device : str
        Where the pipeline runs.
    notes : tuple of (str, str)
        One line per step for ``explain()``: the step, and where it runs and why.
    """

    name: str
    field: str
    decoder: Decoder
    stages: tuple[Stage, ...]
    fused: ValueSpec
    tail: tuple[Tail, ...]
    spec: ValueSpec
    device: str
    notes: tuple[tuple[str, str], ...]

    @property
    def only_reshaped(self) -> bool:
        """True if the tail does nothing but change how the finished batch is represented."""
        steps = [tail.step for tail in self.tail]
        return all(isinstance(s, Represent) or (isinstance(s, ArrayStep) and s.only_reshapes) for s in steps)

    @cached_property
    def early(self) -> int:
        """How many steps of the tail the workers run, before it is the batch's turn.

        Zero unless a compiled operation of the user's, or a launch, is among them: what other steps do to a
        finished batch takes no longer than passing it to another thread.
        """
        free = list(itertools.takewhile(lambda tail: tail.any_thread, self.tail))
        return len(free) if any(isinstance(tail.step, ArrayStep) for tail in free) else 0

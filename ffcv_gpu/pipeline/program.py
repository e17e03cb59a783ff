"""What is done to one output: fused stages first, then a tail of whole-batch steps. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.steps import ArrayStep, Decoder, Erase, Lookup, Mirror, Represent, Sampling, Shift, ValueSpec

__all__ = ["Action", "FusedStage", "Program", "Tail"]


@dataclass(frozen=True)
class Action:
    """One geometric or erasing step of a fused stage; `late` if it acts on values after the lookup."""

    step: Mirror | Shift | Erase
    draw: int
    late: bool


@dataclass(frozen=True)
class FusedStage:
    """One launch: sample, mirror, shift, erase, look up, write in the right type and layout.

    Attributes
    ----------
    sampling, draw
        What is cut out of the source, and the id of its random draw.
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
    """

    sampling: Sampling
    draw: int
    frame: tuple[int, int]
    actions: tuple[Action, ...]
    table: npt.NDArray[np.unsignedinteger]
    dtype: str
    planar: bool

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.table.shape[0])

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """Shape of one sample as it lies in memory."""
        height, width = self.frame
        return (self.channels, height, width) if self.planar else (height, width, self.channels)


@dataclass(frozen=True)
class Tail:
    """One step behind the fused launch, and the spec of the batch it is given."""

    step: ArrayStep | Represent | Lookup
    spec: ValueSpec

    def apply(self, batch: Any, draws: Draws) -> Any:
        """Return the batch that the step makes of `batch`; `draws` knows which samples these are."""
        if isinstance(self.step, ArrayStep):
            return self.step.apply_samples(batch, self.spec, draws)
        return self.step.apply(batch, self.spec)


@dataclass(frozen=True)
class Program:
    """How one output is made.

    Attributes
    ----------
    name, field
        Name of the output, and of the field it is made from.
    decoder : Decoder
        The pipeline's head.
    stages : tuple of FusedStage
        Empty for outputs that are no images.
    fused : ValueSpec
        The output as the last stage (or the read) leaves it.
    tail : tuple of Tail
    spec : ValueSpec
        The output as the consumer gets it.
    device : str
        Where the pipeline runs.
    notes : tuple of (str, str)
        One line per step for ``explain()``: the step, and where it went and why.
    """

    name: str
    field: str
    decoder: Decoder
    stages: tuple[FusedStage, ...]
    fused: ValueSpec
    tail: tuple[Tail, ...]
    spec: ValueSpec
    device: str
    notes: tuple[tuple[str, str], ...]

"""A fused stage while its steps are being collected."""

from __future__ import annotations

from dataclasses import dataclass, field

from ffcv_gpu.draws import Draws
from ffcv_gpu.fields.decoders.images import whole_images
from ffcv_gpu.pipeline.program import Action, FusedStage
from ffcv_gpu.pipeline.table import ValueTable
from ffcv_gpu.steps import BoxArray, Erase, IntArray, Mirror, Sampling, Shift

__all__ = ["Finished", "OpenStage"]


class Finished(Sampling):
    """Takes the whole images of the previous launch."""

    def frame(self) -> None:
        """Return None: their own size."""

    def boxes(self, draws: Draws, draw: int, heights: IntArray, widths: IntArray) -> BoxArray:
        """Return the whole image for each sample."""
        return whole_images(heights, widths)


@dataclass
class OpenStage:
    """What is known of a `FusedStage` so far; see its attributes."""

    sampling: Sampling
    draw: int
    frame: tuple[int, int]
    table: ValueTable
    resize: str = "area"
    wide: str = ""
    actions: list[Action] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.table.channels

    def untouched(self) -> bool:
        """Return True if it gives the source's images as they are."""
        return self.sampling.frame() is None and not self.actions and not self.table.used

    def measurable(self) -> bool:
        """Return True if the source is a finished image whose mean the actions so far do not change."""
        return isinstance(self.sampling, Finished) and all(isinstance(a.step, Mirror) for a in self.actions)

    def reflectable(self) -> bool:
        """Return True if what the actions so far show outside the image is what its reflection shows."""
        return not any(isinstance(action.step, Shift | Erase) for action in self.actions)

    def closed(self, *, planar: bool) -> FusedStage:
        """Return the finished stage, which writes (N, C, H, W) if `planar`."""
        settings = self.resize, self.wide
        actions, bits = tuple(self.actions), self.table.bits()
        return FusedStage(
            self.sampling, self.draw, self.frame, actions, bits, self.table.dtype, planar, *settings
        )

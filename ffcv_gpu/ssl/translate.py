"""RandomTranslate as in FFCV-SSL: pixels from outside the image are grey."""

from __future__ import annotations

from collections.abc import Sequence

from ffcv_gpu import transforms

__all__ = ["RandomTranslate"]


class RandomTranslate(transforms.RandomTranslate):
    """`ffcv_gpu.transforms.RandomTranslate` with FFCV-SSL's default fill, (128, 128, 128).

    Parameters
    ----------
    padding : int
        Largest shift in pixels.
    fill : number or sequence of numbers, default (128, 128, 128)
    seed : int, optional
    padding_mode : {"constant", "reflect"}, keyword only

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    def __init__(
        self,
        padding: int,
        fill: float | Sequence[float] = (128, 128, 128),
        seed: int | None = None,
        *,
        padding_mode: str = "constant",
    ) -> None:
        super().__init__(padding, fill, seed, padding_mode=padding_mode)

"""PipelineSpec: an additional output from a field that another pipeline already reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import Decoder, Step

__all__ = ["PipelineSpec"]


class PipelineSpec:
    """Describe one output: the field it comes from, how it is decoded, and how it is transformed.

    Parameters
    ----------
    source : str or Step
        Name of a field, or a step of another pipeline; this output then continues after that step, with the
        same random draws.
    decoder : Decoder, optional
        Default: the one at the head of `transforms`, if there is one, else the field's own.
    transforms : sequence of steps or torch modules, optional
        Applied in this order. A list is kept, not copied, and a Loader does not modify it.

    Attributes
    ----------
    transforms : list
        May be appended to; a Loader made from this spec reads it at each ``iter()``.
    default_pipeline : bool
        True if neither a decoder nor transforms were given, and the source is a field: as for a field that is
        left out, `ToTensor` comes last, if torch is installed.

    Raises
    ------
    PipelineError
        If `transforms` is not a list, or (when the Loader is created) if the source is neither a field of the
        file nor a step of another pipeline.

    Examples
    --------
    Two views of one image::

        pipelines = {"image": [decoder_a, ToTensor()],
                     "view2": PipelineSpec("image", decoder=decoder_b, transforms=[ToTensor()])}
    """

    def __init__(
        self, source: str | Step, decoder: Decoder | None = None, transforms: Sequence[Any] | None = None
    ) -> None:
        self.source = source
        self.decoder = decoder
        try:
            self.transforms = transforms if isinstance(transforms, list) else list(transforms or ())
        except TypeError as error:
            raise PipelineError(
                f"PipelineSpec: transforms must be a list of steps, not {transforms!r}"
            ) from error
        self.default_pipeline = decoder is None and not self.transforms and isinstance(source, str)

    def __repr__(self) -> str:
        return f"PipelineSpec({self.source!r}, decoder={self.decoder!r}, transforms={self.transforms!r})"

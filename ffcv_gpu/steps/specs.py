"""What a step is given: how a batch looks at one point of its pipeline, and what the file says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BoxArray", "FloatArray", "IntArray", "Ragged", "Source", "ValueSpec"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoxArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ValueSpec:
    """How one output looks at one point of its pipeline.

    Attributes
    ----------
    shape : tuple of int or None
        Shape without the batch axis; `layout` gives the order of an image's axes. None after a step whose
        result is unknown until it runs (a torch module).
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
    ragged : bool
        True for a `Ragged` batch; `dtype` is that of its values.
    """

    shape: tuple[int, ...] | None
    dtype: str | None
    container: str = "numpy"
    device: str = "cpu"
    layout: str | None = None
    channels_last: bool = False
    ragged: bool = False

    def with_(self, **changes: Any) -> ValueSpec:
        """Return a copy with the given attributes changed."""
        return replace(self, **changes)

    @property
    def may_be_images(self) -> bool:
        """Whether these are arrays of three axes, which steps on images take for (H, W, C)."""
        return self.layout is None and len(self.shape or ()) == 3

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ", ".join(["N", *map(str, self.shape)])
        memory = ", channels_last" if self.channels_last else ""
        return f"{self.container} ({shape}) {self.dtype or '?'} on {self.device}{memory}"


@dataclass(frozen=True)
class Source:
    """What a decoder may know about one field of the file.

    `heights` and `widths` are those of the loader's samples (pixels, int64), None if the field holds no
    images; pixels have `channels` values of `dtype`. `nearest` is True if the values are class numbers, which
    must not be interpolated. `max_bytes` is the longest payload of the whole file. `records` is the field's
    metadata column (whole file), `data` the file's bytes (uint8) and `allocations` its allocation table, for
    users' own decoders. `memo` is the loader's: a step may keep results in it across ``iter()`` calls.
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
        """False for images that only the CPU can compose; the batch is then uploaded."""
        return self.dtype == "uint8" and self.channels in (1, 3, 4)


class Ragged(NamedTuple):
    """A batch of variable-length arrays: two arrays, or two tensors.

    Attributes
    ----------
    values : (total, ...)
        The samples' values, concatenated.
    offsets : int64 (N + 1,)
        Sample k's values are ``values[offsets[k]:offsets[k + 1]]``.
    """

    values: Any
    offsets: Any

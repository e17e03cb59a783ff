"""NormalizeImage: (value - mean) / std, to any floating-point dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import FloatArray, Lookup, Source, Step, ValueSpec, channel_values, dtype_name, numbers
from ffcv_gpu.transforms.base import cast, is_tensor, like

__all__ = ["NormalizeImage"]

FLOATS = ("float16", "bfloat16", "float32", "float64")


class NormalizeImage(Lookup):
    """Normalise each channel: ``(value - mean) / std``, computed in float64 and rounded once.

    Images: (N, H, W, C) or (N, C, H, W); shape and layout are kept. On uint8 images it is a lookup table of
    256 entries per channel inside the fused launch (FFCV's method and values), without an extra pass over the
    image. To float64, and after steps that work on the finished batch, it runs on the finished batch (tensors
    in float32, unless `type` is float64). The result is a true floating-point array or tensor, not float16
    disguised as int16 as in FFCV; a `View` or `ToTorchImage` that undoes the disguise has no effect.

    Parameters
    ----------
    mean, std : array of float, (channels,)
        In grey levels, 0 to 255 (FFCV's convention), one per channel or one for all.
    type : dtype
        float16, float32, float64 (numpy or torch), or bfloat16 (``torch.bfloat16`` or ``"bfloat16"``;
        tensors only, numpy has no such type).
    where : {None, "cpu", "gpu"}, keyword only
        None: where the pipeline runs. "cpu": on the CPU even if the pipeline has a GPU; the whole pipeline,
        decoding included, then runs on the CPU and uploads the result. Use it when the GPU is the bottleneck.
        "gpu": raise if the pipeline runs on the CPU.

    Attributes
    ----------
    dtype : dtype
        `type` as given (FFCV's has int16 for float16).

    Raises
    ------
    PipelineError
        If `mean` or `std` is not finite, `std` contains 0, `type` is not a supported floating-point dtype, or
        the number of channels does not match.
    """

    def __init__(self, mean: Any, std: Any, type: Any, *, where: str | None = None) -> None:
        self.mean = np.atleast_1d(numbers(mean, "NormalizeImage: mean"))
        self.std = np.atleast_1d(numbers(std, "NormalizeImage: std"))
        self.type = dtype_name(type)
        self.where = where
        self._dtype = type
        if self.type not in FLOATS:
            raise PipelineError(f"NormalizeImage: type must be one of {', '.join(FLOATS)}, not {self.type}")
        if not (self.std != 0).all():
            raise PipelineError(f"NormalizeImage: std must not be 0, not {std!r}")
        if where not in (None, "cpu", "gpu"):
            raise PipelineError(f"NormalizeImage: where must be None, 'cpu' or 'gpu', not {where!r}")

    @property
    def dtype(self) -> Any:
        """`type` as given."""
        return self._dtype

    @property
    def needs_host(self) -> bool:  # type: ignore[override]
        """True for ``where="cpu"``."""
        return self.where == "cpu"

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Step:
        """Return this step; `PipelineError` if `where` or the number of channels does not fit."""
        if self.where == "gpu" and spec.device == "cpu":
            raise PipelineError(
                "NormalizeImage(where='gpu') is in a pipeline that runs on the CPU; add ToTensor() and "
                "ToDevice(0), or leave out where="
            )
        if spec.shape is not None:
            channels = (1, *spec.shape)[-3 if spec.layout == "CHW" else -1]
            channel_values(self.mean, channels, "NormalizeImage: mean")
            channel_values(self.std, channels, "NormalizeImage: std")
        return self

    def out_dtype(self, dtype: str) -> str:
        """Return the name of `type`."""
        return self.type

    def values(self, values: FloatArray) -> FloatArray:
        """Return (values - mean) / std, float64 (channels, 256)."""
        mean = channel_values(self.mean, values.shape[0], "NormalizeImage: mean")
        std = channel_values(self.std, values.shape[0], "NormalizeImage: std")
        normalised: FloatArray = (values - mean[:, None]) / std[:, None]
        return normalised

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Normalise a batch that could not be fused; tensors in float32 unless `type` is float64."""
        axis = -3 if spec.layout == "CHW" and batch.ndim == 4 else -1  # a module may have left no images
        shape = [1] * batch.ndim
        shape[axis] = -1
        within = "float32" if is_tensor(batch) and self.type != "float64" else "float64"
        mean, std = (
            like(channel_values(values, batch.shape[axis], f"NormalizeImage: {name}").reshape(shape), batch)
            for name, values in (("mean", self.mean), ("std", self.std))
        )
        scaled = (cast(batch, within) - cast(mean, within)) / cast(std, within)
        return cast(scaled, self.type)

"""NormalizeImage: (value - mean) / std, into any floating type."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import FloatArray, Lookup, Source, Step, ValueSpec, channel_values, dtype_name
from ffcv_gpu.transforms.base import cast, is_tensor, like

__all__ = ["NormalizeImage"]

FLOATS = ("float16", "bfloat16", "float32", "float64")


class NormalizeImage(Lookup):
    """Normalise each channel: ``(value - mean) / std``, computed in float64 and rounded once.

    Images: (N, H, W, C) or (N, C, H, W), of which shape and layout stay. On uint8 images it is a table of 256
    entries a channel inside the fused launch (FFCV's method and values) and costs no pass over the image; to
    float64, and behind steps that work on the finished batch, it is computed there. The result is a real
    floating array or tensor: FFCV's int16 disguise of float16 is gone, and a `View` or `ToTorchImage` that
    undid it changes nothing.

    Parameters
    ----------
    mean, std : array of float, (channels,)
        In grey levels, 0 to 255 (FFCV's convention), one a channel or one for all.
    type : dtype
        float16, float32, float64 (numpy or torch), or bfloat16 (``torch.bfloat16`` or ``"bfloat16"``;
        tensors only, numpy has no such type).
    where : {None, "cpu", "gpu"}, keyword only
        None: where the pipeline runs. "cpu": on the CPU also in a pipeline with a GPU, which then runs on
        the CPU as a whole (decoding too) and uploads the result: for when the GPU is the scarce part.
        "gpu": refuse to run on a CPU.

    Raises
    ------
    PipelineError
        If `std` contains 0, `type` is no supported floating type, or the channels do not fit.
    """

    def __init__(self, mean: Any, std: Any, type: Any, *, where: str | None = None) -> None:
        self.mean = np.atleast_1d(np.asarray(mean, dtype=np.float64)).copy()
        self.std = np.atleast_1d(np.asarray(std, dtype=np.float64)).copy()
        self.type = dtype_name(type)
        self.where = where
        if self.type not in FLOATS:
            raise PipelineError(f"NormalizeImage: type must be one of {', '.join(FLOATS)}, not {self.type}")
        if not (self.std != 0).all() or not (np.isfinite(self.mean).all() and np.isfinite(self.std).all()):
            raise PipelineError(
                f"NormalizeImage: mean and std must be finite, std not 0; not {mean!r}, {std!r}"
            )
        if where not in (None, "cpu", "gpu"):
            raise PipelineError(f"NormalizeImage: where must be None, 'cpu' or 'gpu', not {where!r}")

    @property
    def needs_host(self) -> bool:  # type: ignore[override]
        """True for ``where="cpu"``."""
        return self.where == "cpu"

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Step:
        """Return this step; `PipelineError` if it shall not run where the pipeline does."""
        if self.where == "gpu" and spec.device == "cpu":
            raise PipelineError(
                "NormalizeImage(where='gpu') stands in a pipeline on the CPU; add ToTensor() and "
                "ToDevice(0), or leave out where="
            )
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
        """Normalise a batch that could not be fused; in float32 if it is a tensor and `type` no float64."""
        axis = -3 if spec.layout == "CHW" else -1
        shape = [1] * batch.ndim
        shape[axis] = -1
        within = "float32" if is_tensor(batch) and self.type != "float64" else "float64"
        mean, std = (
            like(channel_values(values, batch.shape[axis], f"NormalizeImage: {name}").reshape(shape), batch)
            for name, values in (("mean", self.mean), ("std", self.std))
        )
        scaled = (cast(batch, within) - cast(mean, within)) / cast(std, within)
        return cast(scaled, self.type)

"""Mixup (Zhang et al., arXiv 1710.09412): each sample is mixed with the one before it in its batch.

The image and label steps of one loader draw the same numbers by construction: the draw belongs to mixup
itself, and steps with different arguments are rejected when the Loader is created.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Hashable
from typing import Any

import numpy as np

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import ArrayStep, DrawingStep, FloatArray, Source, ValueSpec, dtype_name, number, whole
from ffcv_gpu.transforms.base import array_module, cast, checked_seed, like

__all__ = ["ImageMixup", "LabelMixup", "MixupToOneHot", "symmetric_beta"]

#: tries of the rejection sampling below; each is accepted with a probability of at least 0.5
TRIES = 32


def symmetric_beta(u: FloatArray, alpha: float) -> FloatArray:
    """Return Beta(alpha, alpha) samples, computed from uniform ones.

    Parameters
    ----------
    u : ndarray of float64, shape (N, 2 * TRIES)
        Uniform in [0, 1).
    alpha : float
        > 0.

    Returns
    -------
    ndarray of float64, shape (N,)
        In [0, 1]. Jöhnk's rejection (1964) for `alpha` up to 1, Cheng's BB (1978) above. The first accepted
        try is returned; 0.5 if all 32 are rejected (probability < 2**-32).
    """
    first, second = (np.maximum(u[:, k::2], 2.0**-33) for k in (0, 1))
    if alpha <= 1:
        log_x, log_y = np.log(first) / alpha, np.log(second) / alpha
        accepted = np.logaddexp(log_x, log_y) <= 0
        odds = log_x - log_y
    else:
        odds = np.log(first / (1 - first)) / math.sqrt(alpha)
        ratio = 2 * alpha * (math.log(2) - np.logaddexp(0.0, odds))
        accepted = ratio + (alpha + math.sqrt(alpha)) * odds - math.log(4) >= np.log(first**2 * second)
    values = 1 / (1 + np.exp(-np.clip(odds, -700, 700)))
    rows = np.arange(len(u))
    chosen = accepted.argmax(axis=1)
    return np.where(accepted[rows, chosen], values[rows, chosen], 0.5)


class _Mixup(DrawingStep, ABC):
    """Base: draws the share that is kept of each sample."""

    demands = True

    def __init__(self, alpha: float, same_lambda: bool, *, seed: int | None = None) -> None:
        name = type(self).__name__
        self.alpha = number(alpha, f"{name}: alpha")
        if self.alpha <= 0:
            raise PipelineError(f"{name}: alpha must be a number > 0, not {alpha!r}")
        self.same_lambda = bool(same_lambda)
        self.seed = checked_seed(seed, name)

    def draw_key(self) -> Hashable:
        """Return mixup's draw: one for all mixup steps of a loader, or for those with the same seed."""
        return ("mixup",) if self.seed is None else ("seed", "mixup", self.seed)

    def kept(self, draws: Draws, draw: int) -> FloatArray:
        """Return float64 (N,): lambda, the share of the sample itself; N equal numbers if `same_lambda`."""
        keyed = Draws(draws.seed, draws.epoch, draws.samples[:1]) if self.same_lambda else draws
        return np.resize(symmetric_beta(keyed.uniform(draw, 2 * TRIES), self.alpha), len(draws))


class ImageMixup(_Mixup):
    """Mix each image with the one before it in the batch (the first with the last).

    Images: (N, H, W, C) or (N, C, H, W), an array or tensor of uint8 or floats; the result is newly allocated
    and of the same kind. Formula (FFCV's): ``lambda * image[i] + (1 - lambda) * image[i - 1]``; uint8 is
    rounded to the nearest level (FFCV rounds down). Because it reads a second sample, it works on the
    finished batch; steps after it are not fused with steps before it.

    Parameters
    ----------
    alpha : float
        > 0; lambda is drawn from Beta(alpha, alpha).
    same_lambda : bool
        True: one lambda per batch (keyed by its first sample); False: one per sample.
    seed : int, optional, keyword only
        None: `ImageMixup` and `LabelMixup` of one loader always agree.

    Raises
    ------
    PipelineError
        If `alpha` is out of range, or (when the Loader is created) if mixup steps of one loader differ.
    """

    why = "mixes each sample with the one before it, so it needs the finished batch"

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec`; `PipelineError` on labels."""
        if spec.layout is None and len(spec.shape or ()) < 2:  # FFCV mixes arrays of any kind
            raise PipelineError(f"{self!r} works on images, not on {spec}; use LabelMixup for labels")
        return spec

    def apply_drawn(self, batch: Any, spec: ValueSpec, draws: Draws, draw: int, source: Source) -> Any:
        """Return the mixed batch."""
        shape = (-1, *[1] * (batch.ndim - 1))
        kept = self.kept(draws, draw).astype(np.float32).reshape(shape)
        module, share = array_module(batch), like(kept, batch)
        mixed = share * batch + (1 - share) * module.roll(batch, 1, 0)
        dtype = dtype_name(batch.dtype)
        return cast(mixed if "float" in dtype else module.round(mixed), dtype)


class LabelMixup(_Mixup):
    """Report how `ImageMixup` mixes: labels (N, 1) or (N,) become (N, 3) float32.

    Columns: the sample's own label, the label of the one before it in the batch, and lambda, the share of the
    first. `MixupToOneHot` turns them into a distribution. Labels are exact up to 2**24.

    Parameters
    ----------
    alpha, same_lambda, seed
        As for the `ImageMixup`.

    Raises
    ------
    PipelineError
        If `alpha` is out of range, or (when the Loader is created) if mixup steps of one loader differ, or if
        the labels have another shape.
    """

    why = "pairs each label with the one before it in the batch"

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return (3,) float32; `PipelineError` unless the labels are (N, 1) or (N,)."""
        if spec.layout or spec.shape not in ((1,), ()):
            raise PipelineError(f"{self!r} needs labels of shape (N, 1), not {spec}")
        return spec.with_(shape=(3,), dtype="float32")

    def apply_drawn(self, batch: Any, spec: ValueSpec, draws: Draws, draw: int, source: Source) -> Any:
        """Return each sample's label, its partner's label, and its share."""
        kept = self.kept(draws, draw).astype(np.float32)
        module, labels = array_module(batch), cast(batch.reshape(-1), "float32")
        return module.stack([labels, module.roll(labels, 1), like(kept, batch)], 1)


class MixupToOneHot(ArrayStep):
    """Turn the output of `LabelMixup` into distributions over the classes.

    (N, 3) tensor (or array) -> (N, num_classes) of the same dtype, newly allocated: lambda at the first label
    plus 1 - lambda at the second. (FFCV modifies its input, and loses a share where both labels are equal.)

    Parameters
    ----------
    num_classes : int

    Raises
    ------
    PipelineError
        If `num_classes` is not a whole number >= 1; while loading, on the CPU, if a label is out of range.
    """

    why = "works on the finished labels"

    def __init__(self, num_classes: int) -> None:
        self.num_classes = whole(num_classes, "MixupToOneHot: num_classes", 1)

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return (num_classes,); `PipelineError` unless the labels are (N, 3) floats."""
        if spec.shape != (3,) or (spec.dtype is not None and "float" not in spec.dtype):
            raise PipelineError(f"{self!r} needs the output of LabelMixup, (N, 3), not {spec}")
        return spec.with_(shape=(self.num_classes,))

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return the distributions."""
        labels, share = cast(batch[:, :2], "int64"), batch[:, 2:]
        if str(batch.device) == "cpu":  # on a GPU, the check would have to wait for it
            self._check(labels)
        classes = like(np.arange(self.num_classes), batch)
        own, other = (cast(labels[:, k : k + 1] == classes, dtype_name(batch.dtype)) for k in (0, 1))
        return share * own + (1 - share) * other

    def _check(self, labels: Any) -> None:
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= self.num_classes):
            wrong = int(labels.max()) if int(labels.max()) >= self.num_classes else int(labels.min())
            raise PipelineError(f"{self!r}: there is a label {wrong}; labels are 0 to {self.num_classes - 1}")

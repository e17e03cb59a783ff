"""What the engine asks of a device: memory for outputs, how to split a batch, and the finished batch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ffcv_gpu.steps import IntArray, ValueSpec

__all__ = ["Device"]


class Device(Protocol):
    """A place where batches are made; the only one who knows who owns its memory."""

    @property
    def name(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""

    def lanes(self, decoded_bytes: IntArray, workers: int) -> list[tuple[int, int]]:
        """Split a batch into ranges [lo, hi) that are worked on independently.

        `decoded_bytes` (N,) is what each sample needs while it is decoded.
        """

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return uninitialised memory for one output of a batch.

        It belongs to the batch and is used again only when nothing refers to it any more.
        """

    def scratch(self, size_bytes: int) -> Any:
        """Return uint8 (size_bytes,) of uninitialised memory for decoded pixels; the caller keeps it."""

    def finish(self, memory: Any, spec: ValueSpec) -> Any:
        """Return `memory` as the array or tensor that `spec` describes; copies nothing."""

"""FFCV's module path of `Reader`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.dataset.reader import Reader

__all__ = ["Reader"]

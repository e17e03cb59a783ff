"""FFCV's module path of `Pipeline`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.absent import Pipeline

__all__ = ["Pipeline"]

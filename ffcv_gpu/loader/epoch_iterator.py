"""FFCV's old module path of `EpochIterator`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.epoch_iterator import QUASIRANDOM_ERROR_MSG, EpochIterator, select_buffer

__all__ = ["QUASIRANDOM_ERROR_MSG", "EpochIterator", "select_buffer"]

"""FFCV's module path of some small functions; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.utils import align_to_page, chunks, decode_null_terminated_string, is_power_of_2

__all__ = ["align_to_page", "chunks", "decode_null_terminated_string", "is_power_of_2"]

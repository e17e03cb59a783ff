"""FFCV's old place of `Compiler`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.compiler import Compiler

__all__ = ["Compiler"]

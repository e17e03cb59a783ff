"""FFCV's module path of its C library's functions; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.library import __getattr__, imdecode, read, resize_crop
from ffcv_gpu.compat.utils import memcpy

__all__ = ["__getattr__", "imdecode", "memcpy", "read", "resize_crop"]

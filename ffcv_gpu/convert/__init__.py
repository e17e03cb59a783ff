"""Reads other datasets as samples for the writer: one module per kind of source."""

from __future__ import annotations

import importlib
from types import ModuleType

from ffcv_gpu.errors import PipelineError

__all__ = ["required"]


def required(module: str, why: str) -> ModuleType:
    """Return a library that a source needs; raise `PipelineError` with `why` if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PipelineError(why) from error

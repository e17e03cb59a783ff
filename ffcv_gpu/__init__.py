"""Pack images into one ``.beton`` file and load them augmented, fast.

Names and modules are loaded on first use (PEP 562): ``import ffcv_gpu`` alone imports none of numba, OpenCV,
torch or CuPy, so that a command line starts at once and a machine without one of them can still use the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffcv_gpu.decode import DecodeStatus, decode_jpegs
    from ffcv_gpu.errors import (
        BackendUnavailable,
        DecodeError,
        FfcvGpuError,
        FormatError,
        PipelineError,
        ReadError,
        SampleError,
        WriteError,
    )
    from ffcv_gpu.loader import Loader, OrderOption
    from ffcv_gpu.writer import DatasetWriter

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "DatasetWriter",
    "DecodeError",
    "DecodeStatus",
    "FfcvGpuError",
    "FormatError",
    "Loader",
    "OrderOption",
    "PipelineError",
    "ReadError",
    "SampleError",
    "WriteError",
    "__version__",
    "decode_jpegs",
]

_HOMES = {
    "DatasetWriter": "ffcv_gpu.writer",
    "DecodeStatus": "ffcv_gpu.decode",
    "Loader": "ffcv_gpu.loader",
    "OrderOption": "ffcv_gpu.loader",
    "decode_jpegs": "ffcv_gpu.decode",
}
#: modules that can be used behind ``import ffcv_gpu`` alone, as in FFCV: ``ffcv_gpu.fields.IntField()``
_MODULES = {
    "fields",
    "libffcv",
    "loader",
    "memory_allocator",
    "memory_managers",
    "pipeline",
    "reader",
    "ssl",
    "transforms",
    "traversal_order",
    "types",
    "utils",
    "writer",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"ffcv_gpu.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'ffcv_gpu' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "ffcv_gpu.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})

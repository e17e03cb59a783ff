"""The exceptions of ffcv_gpu: each is also the matching builtin, so that existing handlers keep working.

A message says what went wrong, where (file, sample, byte offset), what was expected and what to do.
Context that only an outer room knows (the sample's index, the file) is joined once, there, with
``add_note`` or in the message itself.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailable",
    "DecodeError",
    "FfcvGpuError",
    "FormatError",
    "NvjpegError",
    "OutOfGpuMemory",
    "PipelineError",
    "ReadError",
    "SampleError",
    "WriteError",
]


class FfcvGpuError(Exception):
    """Base of everything this library raises on purpose.

    Where an error is about one stored sample, `sample` is its row of the file, `field` the field's name and
    `offset` the payload's first byte; None otherwise.
    """

    sample: int | None = None
    field: str | None = None
    offset: int | None = None


class FormatError(FfcvGpuError, ValueError):
    """The file is not a ``.beton`` file that can be trusted: wrong, truncated or damaged structure."""


class DecodeError(FfcvGpuError, ValueError):
    """Stored bytes could not be turned into a value (a damaged JPEG, a wrong size)."""


class ReadError(FfcvGpuError, OSError):
    """Bytes could not be read, or are not the bytes that were written (short read, checksum)."""


class WriteError(FfcvGpuError, OSError):
    """The file could not be written (full disk, a worker that died); nothing is left under its name."""


class SampleError(FfcvGpuError, ValueError):
    """A sample given to the writer cannot be stored as its field says (shape, dtype, size, bad image)."""


class PipelineError(FfcvGpuError, ValueError):
    """A pipeline or an argument of the loader cannot work; raised when the Loader is made."""


class BackendUnavailable(FfcvGpuError, RuntimeError):
    """A device or decoder that was asked for cannot be used here; says what was looked for."""


class NvjpegError(FfcvGpuError, RuntimeError):
    """A call of nvJPEG failed; `status` is what it returned, an ``nvjpegStatus_t``."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class OutOfGpuMemory(FfcvGpuError, MemoryError):
    """GPU or pinned memory ran out; says how much was asked for, and which argument asks for less."""

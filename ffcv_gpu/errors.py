"""The exceptions of ffcv_gpu; each also derives from the matching builtin, so existing handlers keep working.

A message says what went wrong, where (file, sample, byte offset), what was expected and what to do.
Context that only a caller knows (the sample's index, the file) is added once, by that caller, with
``add_note`` or in the message itself.
"""

from __future__ import annotations

import errno

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
    "SizesDiffer",
    "WriteError",
]


class FfcvGpuError(Exception):
    """Base class of every exception that this library raises deliberately.

    If the error concerns one stored sample, `sample` is its row in the file, `field` the field's name and
    `offset` the payload's byte offset in the file; otherwise they are None. If a custom field has no class,
    `field` alone is its name.
    """

    sample: int | None = None
    field: str | None = None
    offset: int | None = None


def too_many_files(error: OSError) -> str:
    """Return what to do, to be added to a message, if `error` is the limit of open files; "" otherwise."""
    limits = (errno.EMFILE, errno.ENFILE)
    return "; raise the limit of open files (`ulimit -n 4096`)" if error.errno in limits else ""


class FormatError(FfcvGpuError, ValueError):
    """The file is not a valid ``.beton`` file: its structure is wrong, truncated or damaged."""


class DecodeError(FfcvGpuError, ValueError):
    """Stored bytes could not be decoded (a damaged JPEG, a wrong size)."""


class ReadError(FfcvGpuError, OSError):
    """Bytes could not be read, or differ from what was written (short read, checksum mismatch)."""


class WriteError(FfcvGpuError, OSError):
    """The file could not be written (full disk, dead worker); no partial file is left under its name."""


class SampleError(FfcvGpuError, ValueError):
    """A sample cannot be stored in its field (wrong shape or dtype, too large, unreadable image)."""


class PipelineError(FfcvGpuError, ValueError):
    """A pipeline or an argument is invalid; raised before any work starts wherever possible."""


class SizesDiffer(PipelineError, TypeError):
    """A decoder needs images of one size and the file has several: a `TypeError`, as in FFCV."""


class BackendUnavailable(FfcvGpuError, RuntimeError):
    """A requested device or decoder cannot be used here; the message says what was looked for."""


class NvjpegError(FfcvGpuError, RuntimeError):
    """An nvJPEG call failed; `status` is the ``nvjpegStatus_t`` that it returned."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class OutOfGpuMemory(FfcvGpuError, MemoryError):
    """GPU or pinned memory ran out; the message gives the size requested and the argument that lowers it."""

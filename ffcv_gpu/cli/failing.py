"""Errors of the commands: one line on stderr and a status, without a traceback; file by file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from ffcv_gpu.cli.page import complain
from ffcv_gpu.errors import FfcvGpuError, ReadError, WriteError

__all__ = ["EXPECTED", "STATUS_DATA", "each_file", "failed"]

STATUS_DATA = 1
STATUS_SYSTEM = 2

#: errors that end as one line
EXPECTED = (FfcvGpuError, OSError)


def failed(error: Exception, context: Any) -> int:
    """Print an error as one line, and return the status of a command that ends with it; raise if --debug."""
    if isinstance(error, BrokenPipeError) or context.find_root().params.get("debug"):
        raise error  # whoever read our output is gone (`| head`): typer exits quietly
    complain(_in_one_line(error))
    return STATUS_SYSTEM if _of_system(error) else STATUS_DATA


def each_file(context: Any, files: Sequence[str], act: Callable[[str], int]) -> None:
    """Call `act` for each file, also if it fails for others; exit with the highest status, unless 0.

    `act` returns a status, or raises what counts as one (`EXPECTED`). `context` is the command's
    `typer.Context`.
    """
    statuses = []
    for number, file in enumerate(files):
        if number:
            print()
        try:
            statuses.append(act(file))
        except EXPECTED as error:
            statuses.append(failed(error, context))
    bad = [file for file, status in zip(files, statuses, strict=True) if status]
    if bad and len(files) > 1:
        complain(f"{len(bad)} of {len(files)} files failed: {', '.join(bad)}")
    if bad:
        raise typer.Exit(max(statuses))


def _of_system(error: Exception) -> bool:
    """Return True for an error of the system (no such file, no space, no answer), not of the data."""
    if isinstance(error, ReadError):  # raised from the system's error, or obstore's, or again from itself
        cause = error.__cause__
        if isinstance(cause, FfcvGpuError):
            return _of_system(cause)
        return isinstance(cause, Exception) and not isinstance(cause, ValueError)  # Arrow's: not parquet
    return isinstance(error, WriteError) or not isinstance(error, FfcvGpuError)


def _in_one_line(error: BaseException) -> str:
    said = str(error)
    if isinstance(error, OSError) and error.errno is not None:  # without its "[Errno 2]"
        said = str(error.strerror) if error.filename is None else f"{error.filename}: {error.strerror}"
    # A writer process's traceback is a note of many lines: --debug shows it.
    notes = [note for note in getattr(error, "__notes__", []) if "\n" not in note]
    return " ".join("; ".join([said or type(error).__name__, *notes]).split())

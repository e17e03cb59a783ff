"""Watches an open file: whether its name still refers to it, and whether it has been truncated or changed."""

from __future__ import annotations

import os
import weakref

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers.base import open_regular

__all__ = ["FileWatch"]


class FileWatch:
    """Remembers which file a name refers to at construction, and its size.

    A file that is *replaced* (another one is renamed to its name, as our writer does) stays readable. One
    that is *truncated in place* does not: touching a mapped page beyond its end kills the process with
    SIGBUS, so its size is checked before each batch.

    Parameters
    ----------
    path : str

    Raises
    ------
    ReadError
        If it cannot be opened, or is not a regular file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file, self._first = open_regular(path)
        weakref.finalize(self, os.close, self._file)

    def identity(self) -> str:
        """Return an identifier of the file as it was when opened: inode, size and modification time."""
        return f"{self._first.st_ino} {self._first.st_size} {self._first.st_mtime_ns}"

    def check_name(self) -> None:
        """Raise `ReadError` if the name now refers to another file: several readers open it by name."""
        try:
            same = os.path.samestat(os.stat(self._path), self._first)
        except OSError as error:
            raise ReadError(f"cannot read {self._path}: {error}") from error
        if not same:
            raise ReadError(
                f"{self._path} was replaced by another file while it was being opened; open it again"
            )

    def check_size(self) -> None:
        """Raise `ReadError` if the file is smaller than when it was opened."""
        size = os.fstat(self._file).st_size
        if size < self._first.st_size:
            raise ReadError(
                f"{self._path} was truncated from {self._first.st_size} to {size} bytes while in use; to "
                "change a file that is being read, write a new one and rename it to this name"
            )

    def changed(self) -> bool:
        """Return whether the file has been written to since it was opened."""
        now, first = os.fstat(self._file), self._first
        return (now.st_size, now.st_mtime_ns) != (first.st_size, first.st_mtime_ns)

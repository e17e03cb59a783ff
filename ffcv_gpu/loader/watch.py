"""Keeps an eye on an open file: whether its name still means it, and whether it has been cut."""

from __future__ import annotations

import os
import stat
import weakref

from ffcv_gpu.errors import ReadError

__all__ = ["FileWatch"]


class FileWatch:
    """Notes which file has a name now, and how large it is.

    A file that is *replaced* (another one is renamed to its name, as our writer does) stays readable as it
    was. One that is *cut in place* does not: touching what is mapped and no longer there ends the process
    with SIGBUS, so its size is looked at before each batch.

    Parameters
    ----------
    path : str

    Raises
    ------
    ReadError
        If it cannot be opened, or is no regular file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            # A pipe would wait for somebody who writes into it.
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ReadError(f"cannot read {path}: {error}") from error
        weakref.finalize(self, os.close, self._file)
        self._first = os.fstat(self._file)
        if not stat.S_ISREG(self._first.st_mode):
            raise ReadError(f"cannot read {path}: not a regular file")

    def check_name(self) -> None:
        """Raise `ReadError` if the name has been given to another file: several readers open it by name."""
        try:
            same = os.path.samestat(os.stat(self._path), self._first)
        except OSError as error:
            raise ReadError(f"cannot read {self._path}: {error}") from error
        if not same:
            raise ReadError(
                f"{self._path} was replaced by another file while it was being opened; open it again"
            )

    def check_size(self) -> None:
        """Raise `ReadError` if the file is smaller than it was."""
        size = os.fstat(self._file).st_size
        if size < self._first.st_size:
            raise ReadError(
                f"{self._path} was cut from {self._first.st_size} to {size} bytes while it was in use; to "
                "change a file that is being read, write another one and rename it to this name"
            )

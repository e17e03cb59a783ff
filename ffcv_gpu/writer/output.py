"""The file being written: under another name until it is whole, and gone if it never is."""

from __future__ import annotations

import contextlib
import os
import secrets
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import WriteError

__all__ = ["OutputFile"]


class OutputFile:
    """A new file in the folder of `path`; takes that name when `finish` is called, atomically.

    A context manager: left without `finish`, the new file is removed and what was under `path` is as it
    was. (A process killed in between leaves ``.NAME.*.tmp``, whose zero header no reader takes.)

    Parameters
    ----------
    path : str
        A link is followed: the file it names is the one replaced.

    Raises
    ------
    WriteError
        From every method, if the system refuses: no space, no permission, no such folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._target = os.path.realpath(path)
        folder, name = os.path.split(self._target)
        self._temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
        if os.path.isdir(self._target):
            raise WriteError(f"cannot write {path}: it is a folder; give the name of a file in it")
        try:
            self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            self._refuse(error)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def write(self, data: bytes | npt.NDArray[Any], offset: int) -> None:
        """Write all of `data` (C-contiguous) at byte `offset`; what nobody writes reads as zeros."""
        flat: Any = data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else data
        rest = memoryview(flat)
        try:
            while rest:
                count = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[count:], offset + count
        except OSError as error:
            self._refuse(error)

    def finish(self) -> None:
        """Close the file and give it its name."""
        fd, self._fd = self._fd, -1
        try:
            # Network file systems tell of a full disk only now.
            os.close(fd)
            os.replace(self._temporary, self._target)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._refuse(error)

    def _refuse(self, error: OSError) -> NoReturn:
        raise WriteError(
            error.errno,
            f"cannot write {self.path}: {error.strerror}; nothing was left there, and a file that had this"
            " name before is as it was",
        ) from error

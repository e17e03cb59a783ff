"""The file being written: under a temporary name until it is complete and on disk, else removed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import secrets
import stat
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import WriteError
from ffcv_gpu.writer.forking import close_in_children

__all__ = ["OutputFile"]

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_COPY_BYTES = 1 << 23


class OutputFile:
    """A new file in the folder of `path`; `finish` renames it to `path` atomically.

    A context manager: on exit without `finish`, the new file is removed and an existing file at `path` is
    unchanged. A killed process leaves ``.NAME.*.tmp``, whose zero header every reader rejects; the next
    process that writes NAME removes it (unless it is locked, by a process that is still writing it).

    Parameters
    ----------
    path : str
        A link is followed: the file it points to is replaced. The new file gets its permissions.
    fsync : bool, keyword only
        Flush the file to disk before renaming it, and the new name afterwards; otherwise a power cut within
        the next half minute may leave an incomplete file under that name.
    resumable : bool, keyword only
        The new file is named ``.NAME.partial``, is opened if it exists, and is kept without `finish`.

    Raises
    ------
    WriteError
        From every method, if the system reports an error: no space, no permission, no such folder.
    """

    def __init__(self, path: str, *, fsync: bool = True, resumable: bool = False) -> None:
        self.path = path
        self._target = os.path.realpath(path)
        self._fsync, self._resumable = fsync, resumable
        self._folder, self._name = os.path.split(self._target)
        if os.path.isdir(self._target):
            raise WriteError(f"cannot write {path}: it is a folder; give the name of a file in it")
        if os.path.exists(self._target) and not os.path.isfile(self._target):
            # Renaming would replace it, and it may be the system's /dev/null.
            raise WriteError(f"cannot write {path}: it is a pipe or a device; give the name of a file")
        self._file: IO[bytes] | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            self._open()
            undo.pop_all()

    def _open(self) -> None:
        try:
            (self._open_partial if self._resumable else self._open_new)()
            #: no process had written to the file when it was opened
            self.is_new = os.fstat(self._fd).st_size == 0
            #: an earlier run wrote all of it, header included, and failed to flush or to rename it
            self.was_complete = os.pread(self._fd, 1, 0) not in (b"", b"\0")
        except OSError as error:
            self._refuse(error)
        # The target may not exist, or its file system may lack permissions. The owner keeps read and write
        # access: a later process may have to resume the file, or to remove it.
        with contextlib.suppress(OSError):
            os.fchmod(self._fd, stat.S_IMODE(os.stat(self._target).st_mode) | stat.S_IRUSR | stat.S_IWUSR)

    @property
    def _fd(self) -> int:
        assert self._file is not None
        return self._file.fileno()

    def beside(self, ending: str) -> str:
        """Return the path of a hidden file beside the target."""
        return os.path.join(self._folder, f".{self._name}{ending}")

    def _open_new(self) -> None:
        self._remove_orphans()
        while True:
            self._temporary = self.beside(f".{secrets.token_hex(4)}.tmp")
            # Between opening and locking, another writer may have taken it for an orphan.
            if self._open_locked(os.O_EXCL) and self._has_its_name():
                return

    def _open_partial(self) -> None:
        self._temporary = self.beside(".partial")
        while True:
            if not self._open_locked():
                raise WriteError(
                    errno.EWOULDBLOCK,
                    f"cannot write {self.path}: another process is writing it ({self._temporary} is locked)",
                )
            # Another process may have finished it since it was opened: then we must not write to it.
            if self._has_its_name():
                return

    def _open_locked(self, flags: int = 0) -> bool:
        """Open the file; return False if another process has locked it."""
        if self._file is not None:
            self._file.close()
        self._file = os.fdopen(os.open(self._temporary, _FLAGS | flags, 0o666), "r+b", 0)
        close_in_children(self._file)
        return _lock(self._fd)

    def _has_its_name(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._temporary))
        except FileNotFoundError:
            return False

    def _remove_orphans(self) -> None:
        pattern = re.compile(re.escape(f".{self._name}.") + r"[0-9a-f]{8}\.tmp")
        for path in glob.glob(glob.escape(self.beside(".")) + "*.tmp"):
            if not pattern.fullmatch(os.path.basename(path)):
                continue
            # It may belong to another user, or be gone by now: no error here.
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if _lock(fd, unsure=False):
                        os.unlink(path)
                finally:
                    os.close(fd)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Close the file; remove it if it still has its temporary name and nothing will resume it."""
        if self._file is None or self._file.closed:
            return
        if not self._resumable:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
        self._file.close()

    def write(self, data: bytes | npt.NDArray[Any], offset: int) -> None:
        """Write all of `data` (C-contiguous) at byte `offset`; bytes never written read as zeros."""
        flat: Any = data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else data
        rest = memoryview(flat)
        try:
            while rest:
                count = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[count:], offset + count
        except OSError as error:
            self._refuse(error)

    def read_into(self, out: npt.NDArray[np.uint8], offset: int) -> None:
        """Fill `out`, uint8 (n,), with the bytes at `offset`; with zeros beyond the file's end."""
        done = 0
        try:
            while done < len(out) and (count := os.preadv(self._fd, [out[done:].data], offset + done)):
                done += count
        except OSError as error:
            self._refuse(error)
        out[done:] = 0

    def truncate(self, size_bytes: int) -> None:
        """Set the file's size: drop what lies beyond, or extend it with zeros."""
        try:
            os.ftruncate(self._fd, size_bytes)
        except OSError as error:
            self._refuse(error)

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy `size` bytes within the file, from byte `source` to byte `target`, which lies behind them."""
        for done in range(0, size, _COPY_BYTES):
            data = np.empty(min(_COPY_BYTES, size - done), np.uint8)
            self.read_into(data, source + done)
            self.write(data, target + done)

    def finish(self, journal: str | None = None, check: Callable[[], object] | None = None) -> None:
        """Flush, rename and close the file, and remove its `journal`.

        `check` is called after the flush, which may take minutes, and may still raise.
        """
        try:
            if self._fsync:
                os.fsync(self._fd)
            # Network file systems may report a full disk only when a descriptor is closed. The file itself
            # stays locked: unlocked under its temporary name, another writer would take it for an orphan.
            os.close(os.dup(self._fd))
            if check is not None:
                check()
            os.replace(self._temporary, self._target)
            if journal is not None:
                with contextlib.suppress(OSError):  # a journal left behind without its file is void
                    os.unlink(journal)
        except OSError as error:
            self._refuse(error)
        finally:
            self._close()
        if self._fsync:
            self._sync_folder()

    def _sync_folder(self) -> None:
        """Flush the new name to disk too; file systems that cannot do that are ignored."""
        try:
            fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
                raise WriteError(
                    error.errno, f"{self.path} is complete, but its name may not survive a power cut: {error}"
                ) from error

    def _refuse(self, error: OSError) -> NoReturn:
        if isinstance(error, WriteError):
            raise error
        there = self._resumable and os.path.exists(self._temporary)
        kept = f"; {self._temporary} is kept, for the run to resume" if there else ""
        raise WriteError(
            error.errno,
            f"cannot write {self.path}: {error.strerror}; nothing was left there, and an existing file"
            f" of this name is unchanged{kept}",
        ) from error


def _lock(fd: int, *, unsure: bool = True) -> bool:
    """Lock an open file; False if another process holds the lock, `unsure` if files cannot be locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return unsure  # a file system without locks
    return True

"""The local copy of a remote file, and the map of which of its blocks are there.

Two files in the folder that the user named: a sparse one of the remote file's size, and beside it ``.map``,
a page that says what it is about and then a byte for each block. Any number of processes share them: a block
is marked only after its bytes were written, so fetching one twice is harmless.

A power cut may lose bytes that were written, but not yet to the disk, and keep their marks. So a block is at
first `WRITTEN`, which counts until the machine is started anew, and `KEPT` once the disk has it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import re
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers.remote.store import Version
from ffcv_gpu.steps import IntArray

__all__ = ["BLOCK_BYTES", "Mirror"]

#: A batch in RANDOM order touches as many blocks as samples, and its first wait is for all of them; smaller
#: ones would cost a request for each payload or two.
BLOCK_BYTES: Final = 1 << 20
ABSENT, WRITTEN, KEPT = range(3)
HEAD_BYTES: Final = 4096
#: Linux' ``struct flock``: type, whence, start, length, pid (which is 0), as fcntl's F_OFD_SETLK takes it.
FLOCK = struct.Struct("@hhqqi4x")
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


class Mirror:
    """The local copy of one version of a remote file; made, or found from earlier.

    Parameters
    ----------
    folder : str
        Of a local disk: processes of one machine see each other's marks through memory.
    url : str
    version : Version

    Attributes
    ----------
    path : str
        The copy. What is not there yet reads as zeros.

    Raises
    ------
    ReadError
        If the disk has too little room for the rest of the file, or the folder cannot be written to.
    """

    def __init__(self, folder: str, url: str, version: Version) -> None:
        self._url, self.size = url, version.size
        self.blocks = -(-version.size // BLOCK_BYTES)
        self.path = os.path.join(folder, _name(url, version))
        about = {"url": url, "size": version.size, "tag": version.tag, "block_bytes": BLOCK_BYTES}
        self._about = json.dumps(about).encode() + b"\n"  # a line, and another one: when it was last opened
        with self._writing(), _alone(folder):
            found = self._find()
            self._check_room(folder, 0 if found is None else self._bytes_of(found))
            if found is None:
                self._begin_anew()
            self._open()

    def _find(self) -> npt.NDArray[np.uint8] | None:
        """Return the state of each block; None if there is no map that can be trusted."""
        try:
            with open(f"{self.path}.map", "rb") as file:
                raw = file.read()
            whole = os.stat(self.path).st_size == self.size and len(raw) == HEAD_BYTES + self.blocks
        except FileNotFoundError:
            return None
        states = np.frombuffer(raw[HEAD_BYTES:], np.uint8)
        sound = whole and raw.startswith(self._about) and int(states.max(initial=0)) <= KEPT
        return states if sound else None

    def _head(self) -> bytes:
        return (self._about + _boot()).ljust(HEAD_BYTES, b"\0")

    def _check_room(self, folder: str, there: int) -> None:
        disk = os.statvfs(folder)
        needed = self.size - there
        free = disk.f_bavail * disk.f_frsize
        if needed > free:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise ReadError(
                f"cache_dir={folder!r} has {free} bytes free, and the local copy of {self._url} takes "
                f"{needed} more; free some (copies of other files and of older versions are its *.beton "
                "files), or name a folder of a larger disk"
            ) from full

    def _begin_anew(self) -> None:
        """Make both files; who has older ones open keeps them. Without a map, a copy is none."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}.map")
        with open(f"{self.path}.part", "wb") as file:
            file.truncate(self.size)
        os.replace(f"{self.path}.part", self.path)
        with open(f"{self.path}.map.part", "wb") as file:
            file.write(self._head() + bytes(self.blocks))
        os.replace(f"{self.path}.map.part", f"{self.path}.map")

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._map = os.open(f"{self.path}.map", os.O_RDWR | os.O_CLOEXEC)
        for descriptor in (self._file, self._map):
            # Not at the end of the interpreter, when a download may still write to what has this number.
            weakref.finalize(self, os.close, descriptor).atexit = False
        view = mmap.mmap(self._map, HEAD_BYTES + self.blocks)
        self._states: npt.NDArray[np.uint8] = np.frombuffer(view, np.uint8, offset=HEAD_BYTES)
        if view[:HEAD_BYTES] != self._head():  # marked before the machine was started anew
            self._states[self._states == WRITTEN] = ABSENT
            view[:HEAD_BYTES] = self._head()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except ReadError:
            raise
        except OSError as error:
            raise ReadError(
                f"{self._url}: its local copy {self.path} cannot be written: {error.strerror}"
            ) from error

    # ---- what is there

    def missing(self, blocks: IntArray) -> IntArray:
        """Return those of `blocks` that are not there."""
        missing: IntArray = blocks[self._states[blocks] == ABSENT]
        return missing

    def has(self, block: int) -> bool:
        """Return whether a block is there."""
        return bool(self._states[block] != ABSENT)

    @property
    def absent(self) -> npt.NDArray[np.bool_]:
        """True for each block that is not there, (blocks,), in fresh memory."""
        absent: npt.NDArray[np.bool_] = self._states == ABSENT
        return absent

    @property
    def present_bytes(self) -> int:
        """How much of the file is there."""
        return self._bytes_of(self._states)

    def _bytes_of(self, states: npt.NDArray[np.uint8]) -> int:
        """Return how many bytes are in the blocks that are there; the last one is shorter."""
        lacking = self.blocks * BLOCK_BYTES - self.size if states.size and states[-1] else 0
        return int(np.count_nonzero(states)) * BLOCK_BYTES - lacking

    # ---- for those who fetch

    def claim(self, block: int) -> bool:
        """Try to be the only one that fetches a block, until `release`; it ends with the process, too.

        Where the file system has no locks, everybody is: then a block may be fetched twice.
        """
        try:
            self._lock(fcntl.F_WRLCK, block)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)
        return True

    def release(self, block: int) -> None:
        """Let others fetch the block, if it is not there."""
        try:
            self._lock(fcntl.F_UNLCK, block)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EINVAL, errno.ENOTSUP):
                raise

    def _lock(self, kind: int, block: int) -> None:
        # Of the open file, not of the process: two loaders of one process do not take each other's.
        fcntl.fcntl(self._map, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, HEAD_BYTES + block, 1, 0))

    def write(self, at: int, data: bytes) -> None:
        """Write bytes of the file; `ReadError` if the disk does not take them."""
        view = memoryview(data)
        with self._writing():
            while view:
                done = os.pwrite(self._file, view, at)
                at, view = at + done, view[done:]

    def mark(self, block: int) -> None:
        """Say that all bytes of a block are written."""
        if self._states[block] == ABSENT:
            self._states[block] = WRITTEN

    def keep(self) -> None:
        """Have the disk keep what was written; takes as long as the disk does."""
        written = np.flatnonzero(self._states == WRITTEN)
        if written.size:
            with self._writing():
                os.fdatasync(self._file)
            self._states[written] = KEPT


def _name(url: str, version: Version) -> str:
    """Return a file name that tells a person which file it is, and a changed file from what it was."""
    plain = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2].removesuffix(".beton"))[:80]
    sums = (hashlib.sha256(text.encode()).hexdigest() for text in (url, f"{version.size} {version.tag}"))
    return "-".join([plain, *(text[:10] for text in sums)]) + ".beton"


def _boot() -> bytes:
    """Return what tells this run of the operating system from earlier ones."""
    with open(BOOT_ID, "rb") as file:
        return file.read().strip()


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep other processes from making or opening mirrors in a folder."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)

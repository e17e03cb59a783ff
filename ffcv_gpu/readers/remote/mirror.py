"""The local copy of a remote file, and the map of which of its blocks have been fetched.

The copy is a sparse file of the remote file's size. The map, beside it, is one page that identifies the
remote file and then one byte per block. Any number of processes of one machine share both, through memory.
A block is marked only after all its bytes were written, so a killed process leaves no block that is marked
and incomplete, and fetching a block twice is harmless.

A power cut may lose bytes that were not on the disk yet, although their marks are. So a block is first
`WRITTEN`, which counts until the machine is restarted, and `KEPT` after an fdatasync.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers.remote.folder import (
    copy_name,
    exclusive,
    in_use,
    lock,
    others_in_use,
    remove_older,
    set_in_use,
)
from ffcv_gpu.readers.remote.store import ObjectLost, Version
from ffcv_gpu.steps import IntArray

__all__ = ["BLOCK_BYTES", "Mirror"]

#: A batch in RANDOM order touches as many blocks as samples, and its first wait is for all of them; smaller
#: blocks would need a request for every payload or two.
BLOCK_BYTES: Final = 1 << 20
ABSENT, WRITTEN, KEPT = range(3)
HEAD_BYTES: Final = 4096
#: characters of the URL's end and of the ETag in the map's head; both are in the file name, hashed, in full
HEAD_CHARACTERS: Final = 500
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Mirror:
    """The local copy of one version of a remote file: the existing one, or else a new one.

    Opening it removes the copies of other versions of the object that no process has open.

    Parameters
    ----------
    folder : str
        On a local disk, as processes see each other's marks through memory.
    url : str
    version : Version

    Attributes
    ----------
    path : str
        The copy. Blocks that have not been fetched read as zeros.
    size : int
        Bytes of the file.
    blocks : int

    Raises
    ------
    ReadError
        If the folder cannot be written to, or another machine uses the copy.
    """

    def __init__(self, folder: str, url: str, version: Version) -> None:
        self._url, self.size = url, version.size
        self.blocks = -(-version.size // BLOCK_BYTES)
        self.path = os.path.join(folder, copy_name(url, version))
        about = {"url": url[-HEAD_CHARACTERS:], "size": version.size, "tag": version.tag[:HEAD_CHARACTERS],
                 "block_bytes": BLOCK_BYTES}  # fmt: skip
        self._keeping = threading.Lock()
        self._about = json.dumps(about, ensure_ascii=False).encode() + b"\n"
        with self._writing(), exclusive(folder):
            remove_older(self.path)
            if not self._exists():
                self._create()
            self._open()

    def _exists(self) -> bool:
        """Return whether there is a copy with a map that can be trusted."""
        try:
            raw = Path(f"{self.path}.map").read_bytes()
            whole = os.stat(self.path).st_size == self.size and len(raw) == HEAD_BYTES + self.blocks
        except FileNotFoundError:
            return False
        return whole and raw.startswith(self._about) and max(raw[HEAD_BYTES:], default=0) <= KEPT

    def _head(self) -> bytes:
        """Return the first page of the map: two lines, the file, and the machine and its last start."""
        return (self._about + BOOT_ID.read_bytes().strip()).ljust(HEAD_BYTES, b"\0")

    def check_room(self) -> bool:
        """Raise `ReadError` if the disk has no room for what this and the other open copies still lack.

        Returns False, without looking at the others, if this one lacks nothing.
        """
        folder, needed = os.path.dirname(self.path), self.size - self.present_bytes
        if not needed:
            return False
        with self._writing(), exclusive(folder):
            disk = os.statvfs(folder)
            reserved = sum(_absent_bytes(other) for other in others_in_use(self.path))
        free = disk.f_bavail * disk.f_frsize
        if needed + reserved > free:
            others = f", and other copies in use {reserved / 1e6:,.1f} MB" if reserved else ""
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise ReadError(
                f"cache_dir={folder!r} has {free / 1e6:,.1f} MB free; the local copy of {self._url} needs "
                f"{needed / 1e6:,.1f} MB more{others}: free some (copies there, each a .beton and a .map "
                "file, may be deleted), or name a folder on a larger disk"
            ) from full
        return True

    def _create(self) -> None:
        """Create both files; processes that have older ones open keep those."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}.map")
        with open(f"{self.path}.part", "wb") as file:
            file.truncate(self.size)
        os.replace(f"{self.path}.part", self.path)
        Path(f"{self.path}.map.part").write_bytes(self._head() + bytes(self.blocks))
        os.replace(f"{self.path}.map.part", f"{self.path}.map")

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._map = os.open(f"{self.path}.map", os.O_RDWR | os.O_CLOEXEC)
        for descriptor in (self._file, self._map):
            # Not at interpreter exit: a download may still write to the descriptor.
            weakref.finalize(self, os.close, descriptor).atexit = False
        view = mmap.mmap(self._map, HEAD_BYTES + self.blocks)
        self._states: npt.NDArray[np.uint8] = np.frombuffer(view, np.uint8, offset=HEAD_BYTES)
        if view[:HEAD_BYTES] != self._head():  # last opened before the machine was restarted
            if in_use(self.path):
                raise ReadError(
                    f"{self._url}: its local copy {self.path} is in use on another machine; pass a cache_dir "
                    "on a local disk, or one folder per machine"
                )
            self._states[self._states == WRITTEN] = ABSENT
            view[:HEAD_BYTES] = self._head()
        set_in_use(self._map)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except ReadError:
            raise
        except OSError as error:
            raise ObjectLost(
                f"{self._url}: its local copy {self.path} cannot be written: {error.strerror}"
            ) from error

    # ---- which blocks have been fetched

    def missing(self, blocks: IntArray) -> IntArray:
        """Return those of `blocks` that have not been fetched."""
        missing: IntArray = blocks[self._states[blocks] == ABSENT]
        return missing

    def has(self, block: int) -> bool:
        """Return whether a block has been fetched."""
        return bool(self._states[block] != ABSENT)

    @property
    def absent(self) -> npt.NDArray[np.bool_]:
        """True for each block that has not been fetched, bool (blocks,); newly allocated."""
        absent: npt.NDArray[np.bool_] = self._states == ABSENT
        return absent

    @property
    def present_bytes(self) -> int:
        """Bytes of the file that have been fetched."""
        unused = self.blocks * BLOCK_BYTES - self.size if self.blocks and self._states[-1] else 0
        return int(np.count_nonzero(self._states)) * BLOCK_BYTES - unused  # the last block is shorter

    # ---- for downloads

    def claim(self, block: int) -> bool:
        """Try to become the only one that fetches a block, until `release` or the end of the process.

        True for everyone if the file system has no locks: then a block may be fetched twice.
        """
        try:
            return lock(self._map, fcntl.F_WRLCK, HEAD_BYTES + block)
        except OSError:
            return True

    def release(self, block: int) -> None:
        """End a claim."""
        with suppress(OSError):
            lock(self._map, fcntl.F_UNLCK, HEAD_BYTES + block)

    def write(self, at: int, data: bytes) -> None:
        """Write bytes of the file at offset `at`; `ObjectLost` if the disk is full or fails."""
        view = memoryview(data)
        with self._writing():
            while view:
                done = os.pwrite(self._file, view, at)
                at, view = at + done, view[done:]

    def mark(self, block: int) -> None:
        """Mark a block, of which all bytes are written, as fetched."""
        if self._states[block] == ABSENT:
            self._states[block] = WRITTEN

    def keep(self) -> None:
        """Flush what was written to the disk, so that it survives a power cut.

        If that fails, it counts as absent from then on: Linux reports the failure once, and a later flush
        succeeds without the bytes (fsync(2), EIO).
        """
        with self._keeping:
            written = np.flatnonzero(self._states == WRITTEN)
            if not written.size:
                return
            now = ABSENT
            try:
                with self._writing():
                    os.fdatasync(self._file)
                now = KEPT
            finally:
                self._states[written] = now


def _absent_bytes(path: str) -> int:
    """Return the bytes that another copy lacks, at most."""
    states = np.fromfile(f"{path}.map", np.uint8, offset=HEAD_BYTES)
    return int(np.count_nonzero(states == ABSENT)) * BLOCK_BYTES

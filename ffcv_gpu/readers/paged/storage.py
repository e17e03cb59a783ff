"""Reads pages from disk into our own memory, bypassing the system's page cache if possible."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ffcv_gpu.errors import ReadError

__all__ = ["ALIGNMENT", "Arena", "JoinedPages", "PageFile", "Pages"]

logger = logging.getLogger(__name__)

#: Alignment of offsets, lengths and addresses for direct I/O: a multiple of the block size of common disks.
ALIGNMENT = 4096
#: Errors of open() and preadv() if a file system has no direct I/O, or needs another alignment.
NO_DIRECT_IO = frozenset({errno.EINVAL, errno.ENOTSUP})


class Arena:
    """Page buffers in one block of memory: `count` of `buffer_bytes` each, aligned for direct I/O.

    Attributes
    ----------
    memory : uint8 (count * buffer_bytes,), read-only
        The contents of the buffers; buffer i begins at ``i * buffer_bytes``.
    """

    def __init__(self, count: int, buffer_bytes: int) -> None:
        self.count, self.buffer_bytes = count, buffer_bytes
        # Private and anonymous: the system allocates it when first written to, also after `drop`.
        self._map = mmap.mmap(-1, max(count * buffer_bytes, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # After a fork while the disk writes into a page, the bytes might be visible only to the child.
        if hasattr(mmap, "MADV_DONTFORK"):
            self._map.madvise(mmap.MADV_DONTFORK)
        # Direct I/O pins each page of memory: 512 times fewer if the system has huge pages.
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a kernel without huge pages
                    raise
        self.memory = np.frombuffer(self._map, np.uint8)
        self.memory.flags.writeable = False

    def buffer(self, number: int) -> memoryview:
        """Return buffer `number`, writable."""
        return memoryview(self._map)[number * self.buffer_bytes : (number + 1) * self.buffer_bytes]

    def drop(self) -> None:
        """Release the memory to the system now; remaining views read zeros."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Pages(Protocol):
    """Where pages are read from; any number of threads may read at once."""

    def read(self, begin: int, end: int, buffer: memoryview) -> int:
        """Read bytes [begin, end) into `buffer`; return their offset in it. See `PageFile.read`."""

    def close(self) -> None:
        """Close what was opened here."""


class PageFile:
    """A file from which pages are read; any number of threads may read at once, without the GIL.

    Parameters
    ----------
    path : str
        For messages.
    descriptor : int
        The open file, owned by the caller.
    direct : bool
        True: bypass the system's page cache. If the file system cannot, pages are dropped from that cache
        after reading, because they would only evict what other programs need. False: leave them there, for
        other processes that read the same file.
    """

    def __init__(self, path: str, descriptor: int, *, direct: bool) -> None:
        self._path, self._descriptor = path, descriptor
        self._drop = direct
        self._direct = self._open_direct() if direct else None
        self._close = weakref.finalize(self, _close, self._direct)

    def _open_direct(self) -> int | None:
        flag = getattr(os, "O_DIRECT", 0)
        if not flag:
            return None
        try:
            # The same file, even if another file has its name by now.
            return os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC | flag)
        except OSError as error:
            logger.debug("%s: no direct I/O: %s", self._path, error)
            return None

    @property
    def direct(self) -> bool:
        """True if the system's page cache is bypassed."""
        return self._direct is not None

    def read(self, begin: int, end: int, buffer: memoryview) -> int:
        """Read bytes [begin, end) of the file into `buffer`; return their offset in it.

        Parameters
        ----------
        begin, end : int
        buffer : memoryview
            Aligned memory for all blocks of `ALIGNMENT` bytes that contain the range.

        Raises
        ------
        ReadError
            If the range cannot be read in full; names file and offset.
        """
        start = begin // ALIGNMENT * ALIGNMENT
        size = -(-end // ALIGNMENT) * ALIGNMENT - start
        done, direct = 0, self._direct
        while start + done < end:
            at = start + done
            try:
                got = os.preadv(self._descriptor if direct is None else direct, [buffer[done:size]], at)
            except OSError as error:
                if direct is not None and error.errno in NO_DIRECT_IO:
                    direct = None
                    continue
                raise ReadError(f"{self._path}: cannot read {end - at} bytes at {at}: {error}") from error
            if got == 0:
                raise ReadError(
                    f"{self._path} ends at byte {at}, inside a page read of {end - begin} bytes at {begin}; "
                    "was the file truncated after it was opened?"
                )
            done += got
            if done % ALIGNMENT:
                direct = None  # a short read: the rest is not aligned for direct I/O
        if direct is None and self._drop:
            os.posix_fadvise(self._descriptor, start, size, os.POSIX_FADV_DONTNEED)
        return begin - start

    def close(self) -> None:
        """Close the descriptor that was opened here, not the caller's."""
        self._close()


class JoinedPages:
    """Several files as one, each with an offset of its own.

    Parameters
    ----------
    files : sequence of Pages
    bases : sequence of int
        Offset of each file's first byte, ascending from 0, multiples of the page size.
    """

    def __init__(self, files: Sequence[Pages], bases: Sequence[int]) -> None:
        self._files, self._bases = files, bases

    def read(self, begin: int, end: int, buffer: memoryview) -> int:
        """Read bytes [begin, end), all of one file; return their offset in `buffer`."""
        number = bisect_right(self._bases, begin) - 1
        return self._files[number].read(begin - self._bases[number], end - self._bases[number], buffer)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)

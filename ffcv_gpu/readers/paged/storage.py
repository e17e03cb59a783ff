"""Pages from the disk into memory of our own, past the system's page cache where that is possible."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import weakref

import numpy as np

from ffcv_gpu.errors import ReadError

__all__ = ["ALIGNMENT", "Arena", "PageFile"]

logger = logging.getLogger(__name__)

#: What direct I/O asks of offsets, lengths and addresses: the block size of every common disk divides it.
ALIGNMENT = 4096
#: What open() and preadv() say where a file system has no direct I/O, or wants another alignment.
NO_DIRECT_IO = frozenset({errno.EINVAL, errno.ENOTSUP})


class Arena:
    """Page buffers in one piece of memory: `count` of `buffer_bytes` each, aligned for direct I/O.

    Attributes
    ----------
    memory : uint8 (count * buffer_bytes,), read-only
        What the buffers hold; buffer i begins at ``i * buffer_bytes``.
    """

    def __init__(self, count: int, buffer_bytes: int) -> None:
        self.count, self.buffer_bytes = count, buffer_bytes
        # Private and anonymous: given by the system when first written to, and again when dropped.
        self._map = mmap.mmap(-1, max(count * buffer_bytes, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A fork while the disk writes into a page may leave the bytes with the child alone.
        if hasattr(mmap, "MADV_DONTFORK"):
            self._map.madvise(mmap.MADV_DONTFORK)
        # Direct I/O pins each page of memory: 512 times fewer of them where the system has large ones.
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a kernel without them
                    raise
        self.memory = np.frombuffer(self._map, np.uint8)
        self.memory.flags.writeable = False

    def buffer(self, number: int) -> memoryview:
        """Return buffer `number`, writable."""
        return memoryview(self._map)[number * self.buffer_bytes : (number + 1) * self.buffer_bytes]

    def drop(self) -> None:
        """Give the memory back to the system now; what still refers to it reads zeros."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class PageFile:
    """A file that pages are read from; any number of threads may read at once, without the GIL.

    Parameters
    ----------
    path : str
        For messages.
    descriptor : int
        The open file, which stays the caller's.
    direct : bool
        Read past the system's page cache, if the file system can. If it cannot, pages are dropped from there
        after reading: they would only push out what other programs need. False: leave them there, where
        other processes read the same file.
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
            # The same file, even if another has got its name by now.
            return os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC | flag)
        except OSError as error:
            logger.debug("%s: no direct I/O: %s", self._path, error)
            return None

    @property
    def direct(self) -> bool:
        """True if the system's page cache is passed by."""
        return self._direct is not None

    def read(self, begin: int, end: int, buffer: memoryview) -> int:
        """Read bytes [begin, end) of the file into `buffer`; return where in it they begin.

        Parameters
        ----------
        begin, end : int
        buffer : memoryview
            Aligned memory for the blocks of `ALIGNMENT` bytes around them.

        Raises
        ------
        ReadError
            If they cannot be read in full; names file and offset.
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
                direct = None  # a short read: the rest begins where direct I/O cannot
        if direct is None and self._drop:
            os.posix_fadvise(self._descriptor, start, size, os.POSIX_FADV_DONTNEED)
        return begin - start

    def close(self) -> None:
        """Close what was opened here."""
        self._close()


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)

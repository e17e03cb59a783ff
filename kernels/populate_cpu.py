"""Page in ranges of mapped memory before they are accessed: one call, without the GIL.

Calls the system's C library by name, so that cached code finds it again in the process that loads it. Asking
for one range at a time from Python would release and reacquire the GIL for each, one thread after the other.
"""

from __future__ import annotations

from errno import EAGAIN, EINTR, EINVAL

import numpy as np
from numba import config, types

from ffcv_gpu.kernels._numba import entry, loop

__all__ = ["NO_WINDOWS", "WINDOW", "populate", "windows_of"]

#: Linux 5.14 and newer (include/uapi/asm-generic/mman-common.h); Python's mmap has no name for it
MADV_POPULATE_READ = 22

#: bytes that are brought in together around a small payload. A call takes a microsecond, longer than copying
#: such a payload does; for a window of 16 pages it takes three. No more is read from a disk than the system
#: reads ahead by itself.
WINDOW = 1 << 16
#: payloads below this many bytes are small
SMALL = 1 << 14

NO_WINDOWS = np.zeros(0, np.int32)

madvise = types.ExternalFunction("madvise", types.int32(types.uintp, types.uintp, types.int32))
errno_location = types.ExternalFunction("__errno_location", types.CPointer(types.int32)())


@loop
def bring_in(begin, end, page_bytes):
    """Read addresses [begin, end); return an errno, 0 if they are in memory or the system cannot tell."""
    page = begin & -page_bytes
    while madvise(page, end - page, MADV_POPULATE_READ) != 0:
        code = errno_location()[0]
        if code == EINVAL:
            break
        if code != EINTR and code != EAGAIN:
            return code
    return 0


@loop
def in_window(address, offset, length, page_bytes, size, brought, now):
    """Bring in the window or two around a range, unless that was done at `now`; return whether it is in."""
    if length >= SMALL or offset < 0 or offset + length > size:
        return False
    first, last = offset // WINDOW, (offset + length - 1) // WINDOW
    if last >= brought.size:
        return False
    if brought[first] == now and brought[last] == now:
        return True
    end = min((last + 1) * WINDOW, size)
    if bring_in(address + first * WINDOW, address + end, page_bytes):
        return False
    brought[first] = now
    brought[last] = now
    return True


@entry
def populate_ranges(address, offsets, lengths, page_bytes, size, brought, now):
    """Do the work of `populate`."""
    for n in range(offsets.size):
        if lengths[n] <= 0:
            continue
        if in_window(address, offsets[n], lengths[n], page_bytes, size, brought, now):
            continue
        begin = address + offsets[n]
        code = bring_in(begin, begin + lengths[n], page_bytes)
        if code:
            return n, code
    return -1, 0


def windows_of(size):
    """Return what `populate` notes about the windows of `size` bytes: nothing yet."""
    return np.zeros(-(-size // WINDOW), np.int32)


def populate(address, offsets, lengths, page_bytes, size=0, brought=NO_WINDOWS, now=0):
    """Read ranges from disk that are not in memory yet.

    Detects ranges whose access would end the process with SIGBUS (beyond the end of a truncated file, or in a
    block that the disk cannot read). A kernel older than 5.14 cannot detect them, nor can Python where numba
    must not compile; then all ranges pass.

    Parameters
    ----------
    address : int
        Start of the mapped memory.
    offsets, lengths : int64 (N,)
        Bytes from `address`; the pages that contain them are read.
    page_bytes : int
        This machine's page size.
    size : int
        Bytes of the file now, if it is mapped from a page boundary on.
    brought : int32 (windows,)
        From `windows_of`: when each window was brought in. A small range in a window of `now` is not asked
        for again. Without it, each range is asked for.
    now : int
        A number that changes every few seconds, positive: so long, the system keeps what was just read.

    Returns
    -------
    row : int
        The first range that cannot be read; those before it are in memory. -1 if all are.
    code : int
        The reason, an errno: EFAULT or EIO, or ENOMEM where nothing is mapped. 0 if all are in memory.
    """
    if config.DISABLE_JIT:
        return -1, 0
    return populate_ranges(address, offsets, lengths, page_bytes, size, brought, now)

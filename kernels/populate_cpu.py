"""Page in ranges of mapped memory before they are accessed: one call, without the GIL.

Calls the system's C library by name, so that cached code finds it again in the process that loads it. Asking
for one range at a time from Python would release and reacquire the GIL for each, one thread after the other.
"""

from __future__ import annotations

from errno import EAGAIN, EINTR, EINVAL

from numba import config, types

from ffcv_gpu.kernels._numba import entry

__all__ = ["populate"]

#: Linux 5.14 and newer (include/uapi/asm-generic/mman-common.h); Python's mmap has no name for it
MADV_POPULATE_READ = 22

madvise = types.ExternalFunction("madvise", types.int32(types.uintp, types.uintp, types.int32))
errno_location = types.ExternalFunction("__errno_location", types.CPointer(types.int32)())


@entry
def populate_ranges(address, offsets, lengths, page_bytes):
    """Do the work of `populate`."""
    for n in range(offsets.size):
        if lengths[n] <= 0:
            continue
        begin = address + offsets[n]
        page = begin & -page_bytes
        while madvise(page, begin + lengths[n] - page, MADV_POPULATE_READ) != 0:
            code = errno_location()[0]
            if code == EINVAL:
                break
            if code != EINTR and code != EAGAIN:
                return n, code
    return -1, 0


def populate(address, offsets, lengths, page_bytes):
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

    Returns
    -------
    row : int
        The first range that cannot be read; those before it are in memory. -1 if all are.
    code : int
        The reason, an errno: EFAULT or EIO, or ENOMEM where nothing is mapped. 0 if all are in memory.
    """
    return (-1, 0) if config.DISABLE_JIT else populate_ranges(address, offsets, lengths, page_bytes)

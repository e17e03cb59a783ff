"""Bring ranges of mapped memory into memory before they are touched: one call, without the GIL.

Calls the system's C library by name: kept code finds it again in the process that loads it. Asking for one
range at a time from Python would give the GIL up and take it again for each, one thread after the other.
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
    """Do what `populate` says."""
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
    """Have ranges read from disk that are not in memory.

    Where touching them would end the process with SIGBUS (behind the end of a file that was cut, or a block
    that the disk does not give), that shows here. A kernel older than 5.14 cannot tell, nor can Python where
    numba may not compile: then all ranges pass.

    Parameters
    ----------
    address : int
        Of mapped memory.
    offsets, lengths : int64 (N,)
        Bytes behind `address`; the pages they lie on are brought in.
    page_bytes : int
        A page of this machine.

    Returns
    -------
    row : int
        The first range whose bytes are not to be had; what comes before it is in memory. -1 if all are.
    code : int
        Why, an errno: EFAULT or EIO, or ENOMEM where nothing is mapped. 0 if all are.
    """
    return (-1, 0) if config.DISABLE_JIT else populate_ranges(address, offsets, lengths, page_bytes)

"""Mapped memory, asked of the system's C library: can these pages be touched without ending the process?"""

from __future__ import annotations

import ctypes
import errno
import mmap

__all__ = ["populate"]

#: Linux 5.14 and newer (include/uapi/asm-generic/mman-common.h); Python's mmap has no name for it
MADV_POPULATE_READ = 22

_libc = ctypes.CDLL(None, use_errno=True)
_madvise = _libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_madvise.restype = ctypes.c_int


def populate(address: int, size_bytes: int) -> int:
    """Bring mapped bytes into memory, reading them from disk if need be, without the GIL.

    Where touching them would end the process with SIGBUS (behind the end of a file that was cut, or a block
    that the disk does not give), that shows here.

    Returns
    -------
    int
        0, or an errno: EFAULT or EIO where the bytes are not to be had, EINVAL on a kernel that cannot tell.
    """
    start = address & ~(mmap.PAGESIZE - 1)
    while _madvise(start, address + size_bytes - start, MADV_POPULATE_READ):
        code = ctypes.get_errno()
        if code not in (errno.EINTR, errno.EAGAIN):
            return code
    return 0

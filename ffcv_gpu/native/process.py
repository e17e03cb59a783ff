"""One call of Linux's ``prctl(2)``: a process that ends with its parent."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["end_with_parent"]

PR_SET_PDEATHSIG = 1


def end_with_parent(number: int) -> None:
    """Let Linux send this process signal `number` when the thread that started it ends; else do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ctypes.c_int(PR_SET_PDEATHSIG), ctypes.c_ulong(number))

"""Lets a fork wait until nothing is being compiled.

numba compiles one function at a time, by a lock. A child that is forked meanwhile has the lock, locked, but
not the thread that would release it. It hangs as soon as it compiles or loads a function: a worker of torch's
DataLoader beside a Loader's first epoch, for example.
"""

from __future__ import annotations

import functools
import os

__all__ = ["forks_wait"]


@functools.cache
def forks_wait():
    """Hold numba's lock while this process is forked, from now on."""
    from numba.core.compiler_lock import global_compiler_lock as lock

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)

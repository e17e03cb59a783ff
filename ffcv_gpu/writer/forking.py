"""What a forked child must not have of its parent: open files, and garbage that it could collect.

Files and pipes that only this process may hold open are closed in its children, whoever forks: workers, and
processes that the dataset forks. A file stays locked while any of them has it open, and a pipe does not
break.
"""

from __future__ import annotations

import contextlib
import gc
import os
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import IO

__all__ = ["close_in_children", "keep_inherited", "nothing_is_collected"]

_own: weakref.WeakSet[IO[bytes] | Connection] = weakref.WeakSet()


def close_in_children(file: IO[bytes] | Connection) -> None:
    """Close a file in every process that is forked from now on."""
    _own.add(file)


@contextlib.contextmanager
def nothing_is_collected() -> Iterator[None]:
    """Keep the garbage collector from running inside the with block, and in children forked there."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def keep_inherited() -> None:
    """In a child: never collect what the parent left, only what is made from now on.

    Collected here, tensors on the parent's GPU would end this process (SIGABRT).
    """
    gc.freeze()
    gc.enable()


def _close_all() -> None:
    for file in list(_own):
        with contextlib.suppress(OSError):
            file.close()
    _own.clear()


os.register_at_fork(after_in_child=_close_all)

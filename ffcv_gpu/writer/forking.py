"""Files and pipes that only this process may hold open; its forked children close them, whoever forks.

Workers, and processes that the dataset forks: a file stays locked while any of them has it open, and a pipe
does not break.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from multiprocessing.connection import Connection
from typing import IO

__all__ = ["close_in_children"]

_own: weakref.WeakSet[IO[bytes] | Connection] = weakref.WeakSet()


def close_in_children(file: IO[bytes] | Connection) -> None:
    """Close a file in every process that is forked from now on."""
    _own.add(file)


def _close_all() -> None:
    for file in list(_own):
        with contextlib.suppress(OSError):
            file.close()
    _own.clear()


os.register_at_fork(after_in_child=_close_all)

"""Compiler: compiles the functions of users' own operations with numba."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from ffcv_gpu.errors import PipelineError

__all__ = ["Compiler", "numba_seed", "parallel_loops_need_turns", "readable_errors"]

Function = Callable[..., Any]


class Compiler:
    """FFCV's global settings for compilation; class methods only.

    Unlike FFCV's, it does not change the thread counts of torch and numba, and never compiles parallel loops:
    numba's threading layers abort the process if two loaders use them at once, or after a fork (tried).
    """

    is_enabled: ClassVar[bool] = True
    num_threads: ClassVar[int] = 1

    @classmethod
    def set_enabled(cls, b: bool) -> None:
        """Switch compilation on or off (off: functions run as Python, for debugging)."""
        cls.is_enabled = bool(b)

    @classmethod
    def set_num_threads(cls, n: int) -> None:
        """Store a number of threads; nothing here uses it."""
        cls.num_threads = int(n)

    @classmethod
    def compile(cls, code: Function, signature: Any = None) -> Function:
        """Return `code` compiled with FFCV's options, or unchanged if compilation is switched off.

        Parameters
        ----------
        code : function
            A function that numba can compile; a compiled one is returned unchanged.
        signature : numba signature, optional
            None: compile on each call with new argument types.
        """
        if not cls.is_enabled or hasattr(code, "py_func"):
            return code
        from numba import njit

        compiled: Function = njit(signature, fastmath=True, nogil=True, error_model="numpy")(code)
        return compiled

    @classmethod
    def get_iterator(cls) -> type[range]:
        """Return the iterator for loops over samples: `range`, because loops are never parallel."""
        return range


@functools.cache
def numba_seed() -> Function:
    """Return a compiled ``seed(n)`` for numba's generators of the calling thread.

    They are two: ``np.random`` and Python's ``random``, which published operations use in compiled code, too.
    """
    from numba import njit

    def seed(number: Any) -> None:
        np.random.seed(number)  # noqa: NPY002 (compiled: numba's own generators, two per thread)
        random.seed(number)

    compiled: Function = njit("void(uint32)", nogil=True)(seed)
    return compiled


def parallel_loops_need_turns() -> bool:
    """Return True if parallel loops were compiled in this process that two threads must not run at once.

    Such are in functions that users compiled by ``njit(parallel=True)`` and call from their operations. numba
    without TBB and OpenMP (a slim container has neither) aborts the process then.
    """
    import numba

    threading_layer: Any = vars(numba)["threading_layer"]  # untyped
    try:
        layer = threading_layer()
    except ValueError:  # nothing parallel was compiled
        return False
    return bool(layer == "workqueue")


@contextlib.contextmanager
def readable_errors(what: Any, way_out: str) -> Iterator[None]:
    """Reduce numba's error about the user's code to one sentence; __context__ keeps the full error."""
    from numba.core.errors import NumbaError

    try:
        yield
    except NumbaError as error:
        raise PipelineError(
            f"{what}: numba cannot compile its function: {essence(str(error))}; {way_out}"
        ) from None


def essence(complaint: str) -> str:
    """Return the parts of numba's message that say what is wrong and where, as one line."""
    lines = [line.strip() for line in complaint.splitlines()]
    said = [line for line in lines if line and not line.startswith(("Failed in", "During:"))]
    return " ".join(said[:2]) if said else complaint.strip()

"""The one door to numba: what the other modules of this folder import from it, with two cures.

Bodies and loops are compiled when first called, and loops that the package enters are kept on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# numba-cuda up to 0.30 names np.row_stack, which numpy 2.5 no longer has, and then fails to compile any
# kernel. It must be there before numba.cuda is imported; `vstack` has been its other name all along.
if not hasattr(np, "row_stack"):
    np.row_stack = np.vstack  # type: ignore[attr-defined]

from numba import njit  # noqa: E402

__all__ = ["body", "entry", "loop", "shared"]

# Only `contract`: one rounding for a multiplication and the addition after it, which is twice as fast and
# never less exact. The other flags of fastmath would let results depend on the compiler.
FAST = {"contract"}


def body(function: Any) -> Any:
    """Make a piece of arithmetic that is copied into its callers, on a CPU and in CUDA kernels.

    Only the inlined form compiles to PTX on a machine without a driver.
    """
    return njit(inline="always", fastmath=FAST, error_model="numpy")(function)


def loop(function: Any) -> Any:
    """Make an inner loop: called by entries only, without the GIL."""
    return njit(nogil=True, _nrt=False, fastmath=FAST, error_model="numpy")(function)


def entry(function: Any) -> Any:
    """Make a function that Python calls: releases the GIL, is kept on disk."""
    return njit(nogil=True, cache=True, _nrt=False, fastmath=FAST, error_model="numpy")(function)


def shared(function: Any) -> Any:
    """Make a plain Python function callable from loops too; Python keeps its own, uncompiled, one."""
    return njit(nogil=True)(function)

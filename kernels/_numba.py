"""The one door to numba: the six ways in which functions of this folder are compiled, and three cures.

Nothing is compiled before it is called. Entries are kept on disk, with all that they call.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cache, partial
from pathlib import Path

import numpy as np

# numba-cuda up to 0.30 names np.row_stack, which numpy 2.5 no longer has, and then fails to compile any
# kernel. It must be there before the first is compiled; `vstack` has been its other name all along.
if not hasattr(np, "row_stack"):
    np.row_stack = np.vstack

from numba import njit

__all__ = ["body", "entry", "exact", "kernel", "loop", "shared"]

log = logging.getLogger(__name__)

# `contract` alone: one rounding for a multiplication and the addition after it, which is twice as fast and
# never less exact. The other flags of fastmath would let results depend on the compiler's mood.
#
# Without numba's runtime (`_nrt`) an array is passed like a C pointer. With it, each slice and call counts
# references, atomically, in a place that all threads of the loader share: a fifth of the time on one core,
# more on many. And code that would allocate does not compile.
SERIAL = {"nogil": True, "_nrt": False, "fastmath": {"contract"}, "error_model": "numpy"}


def body(function):
    """Make a piece of arithmetic that is copied into its callers, on a CPU and in CUDA kernels.

    Only the inlined form compiles to PTX on a machine without a driver.
    """
    return njit(inline="always", **SERIAL)(function)


def loop(function):
    """Make an inner loop: called by entries only."""
    return njit(**SERIAL)(function)


def exact(function):
    """Make an inner loop that rounds after each operation, as somebody else's does whose bits are wanted."""
    return njit(**(SERIAL | {"fastmath": False}))(function)


def shared(function):
    """Make a plain Python function callable from loops too; Python keeps its own, uncompiled, one."""
    return njit(**SERIAL)(function)


def entry(function):
    """Make a function that Python calls: releases the GIL, and is kept on disk where that is possible."""
    try:
        dispatcher = njit(cache=True, **SERIAL)(function)
    except RuntimeError as error:
        # neither this folder nor the user's cache folder can be written (a container, perhaps)
        log.warning("%s is compiled anew in every process: %s", function.__name__, error)
        return njit(**SERIAL)(function)
    watch_folder(dispatcher)
    label_kept(dispatcher)
    load_bare(dispatcher)
    return dispatcher


def kernel(function):
    """Make a function that is launched on a GPU: compiled at its first launch, and kept on disk likewise."""
    from numba import cuda

    try:
        dispatcher = cuda.jit(cache=True)(function)
    except RuntimeError as error:
        log.warning("%s is compiled anew in every process: %s", function.__name__, error)
        return cuda.jit(function)
    watch_folder(dispatcher)
    label_kept(dispatcher)
    return dispatcher


def watch_folder(dispatcher):
    """Compile anew when any file of this folder has changed.

    numba compares the age of the entry's own file with what it kept, and would go on running code made
    from an older chapter. The attributes are private: where they are gone, numba's rule has to do.
    """
    kept = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(kept, "_source_stamp"):
        kept._source_stamp = (kept._source_stamp, folder_digest())


def label_kept(dispatcher):
    """Run kept code only for the types, and from the source, that it was made for.

    numba keeps a function in an index file and one numbered data file per signature, written one after the
    other. Two processes that compile different signatures at once take the same number, and the one that
    starts next runs the other's machine code: arrays of other dimensions overwrite the stack (a jump to
    address 0). So a data file says itself what it holds; what says otherwise is compiled anew.
    """
    kept = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if not hasattr(kept, "_source_stamp"):
        return
    load, save = kept.load, kept.save

    def load_labelled(key):
        label, code = load(key) or (None, None)
        return code if label == (kept._source_stamp, key) else None

    kept.load = load_labelled
    kept.save = lambda key, code: save(key, ((kept._source_stamp, key), code))


def load_bare(dispatcher):
    """Load what is kept on disk without numba's registries of all that it can compile.

    Filling them imports much of numba and, where it is installed, scipy: 0.25 s of a start that compiles
    nothing. Machine code needs none of it, and whatever is compiled later fills them first. Private
    attributes, as above.
    """
    kept = getattr(dispatcher, "_cache", None)
    if hasattr(kept, "_load_overload") and hasattr(kept, "_guard_against_spurious_io_errors"):
        kept.load_overload = partial(load_overload, kept)


def load_overload(kept, signature, target):
    """Do what numba's method of this name does, less the refresh of `target`."""
    with kept._guard_against_spurious_io_errors():
        return kept._load_overload(signature, target)


@cache
def folder_digest():
    """Return a text that changes with any file of this folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()

"""How this folder's functions are compiled: six ways.

Nothing is compiled before it is called. Entries are cached on disk, with everything they call; see `_kept`.
"""

from __future__ import annotations

import numpy as np

# numba-cuda up to 0.30 refers to np.row_stack, which numpy 2.5 removed, and then cannot compile any kernel.
# It must exist before the first kernel is compiled; it was always an alias of `vstack`.
if not hasattr(np, "row_stack"):
    np.row_stack = np.vstack

from numba import config, njit

from ffcv_gpu.kernels._forks import forks_wait
from ffcv_gpu.kernels._inlining import inline_without_copies
from ffcv_gpu.kernels._kept import announced, compile_apart, label_kept, load_bare, watch_folder

__all__ = ["body", "entry", "exact", "kernel", "loop", "shared"]

if config.DISABLE_JIT:
    raise ImportError("ffcv_gpu's kernels must be compiled: unset NUMBA_DISABLE_JIT")

inline_without_copies("numba.core")
forks_wait()

# Only `contract`: one rounding for a multiplication and the following addition, which is twice as fast and
# never less exact. With the other flags of fastmath, results would depend on the compiler's choices.
#
# Without numba's runtime (`_nrt`) an array is passed like a C pointer. With it, each slice and call updates
# an atomic reference count that all threads of the loader share: a fifth of the time on one core, more on
# many. Also, without it, code that would allocate does not compile.
SERIAL = {"nogil": True, "_nrt": False, "fastmath": {"contract"}, "error_model": "numpy"}

# Only Python calls entries, only entries call loops, and neither is passed on as a C function. Compiling what
# these calls would need took a quarter of the time.
UNCALLED = {"no_cfunc_wrapper": True}
INNER = UNCALLED | {"no_cpython_wrapper": True}

ADVICE = (
    "numba could not compile a kernel for this GPU: its compiler packages must be installed and know the "
    "GPU; pip install --upgrade 'ffcv-gpu[cuda13]', or 'ffcv-gpu[cuda12]' with a driver of CUDA 12 or a GPU "
    "below compute capability 7.5"
)


def body(function):
    """Compile a piece of arithmetic that is inlined into its callers, on a CPU and in CUDA kernels.

    Only the inlined form compiles to PTX on a machine without a driver.
    """
    return njit(inline="always", **SERIAL)(function)


def loop(function):
    """Compile an inner loop: only entries call it.

    numba optimises each loop by itself, and again in every entry that it is linked into. Doing it only in
    the entries saves a quarter of the compilation, and makes them five times as slow: inlined into code that
    reads other arrays, the loops are no longer vectorised.
    """
    return inner(njit(**SERIAL, **INNER)(function))


def exact(function):
    """Compile an inner loop that rounds after each operation, to match another library bit for bit."""
    return inner(njit(**(SERIAL | {"fastmath": False}), **INNER)(function))


def inner(dispatcher):
    """Let compiled code call a function, and nothing else: there is no wrapper that Python could call."""

    def refuse(*_arguments, **_keywords):
        raise TypeError(f"{dispatcher.py_func.__qualname__} is compiled for other compiled functions only")

    dispatcher._insert = lambda *_: None
    dispatcher._compile_for_args = refuse
    return dispatcher


def shared(function):
    """Compile a plain Python function so that loops can call it too; Python keeps the uncompiled one."""
    return njit(**SERIAL)(function)


def entry(function):
    """Compile a function that Python calls: it releases the GIL, and is cached on disk where possible."""
    try:
        dispatcher = njit(cache=True, **SERIAL, **UNCALLED)(function)
    except RuntimeError:
        # neither this folder nor the user's cache folder is writable (in a container, perhaps)
        return announced(njit(**SERIAL, **UNCALLED)(function))
    watch_folder(dispatcher)
    label_kept(dispatcher)
    load_bare(dispatcher)
    compile_apart(dispatcher)
    return announced(dispatcher)


def kernel(function, **options):
    """Make a function that is launched on a GPU: compiled at its first launch, and also cached on disk.

    Options are those of `cuda.jit`.
    """
    from numba import cuda

    try:
        dispatcher = cuda.jit(cache=True, **options)(function)
    except RuntimeError:
        return announced(advised(cuda.jit(**options)(function)))
    watch_folder(dispatcher)
    label_kept(dispatcher)
    return announced(advised(dispatcher))


def advised(dispatcher):
    """Add to an error of compiling for a GPU what usually helps: numba names neither GPU nor packages."""
    compiled = dispatcher.compile

    def compile_or_advise(signature):
        try:
            return compiled(signature)
        except Exception as error:
            error.add_note(ADVICE)
            raise

    dispatcher.compile = compile_or_advise
    return dispatcher

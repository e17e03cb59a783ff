"""How this folder's functions are compiled and kept: six ways, and workarounds for numba's.

Nothing is compiled before it is called. Entries are cached on disk, with everything they call.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np

# numba-cuda up to 0.30 refers to np.row_stack, which numpy 2.5 removed, and then cannot compile any kernel.
# It must exist before the first kernel is compiled; it was always an alias of `vstack`.
if not hasattr(np, "row_stack"):
    np.row_stack = np.vstack

from numba import njit

from ffcv_gpu.kernels._announcer import Announcer
from ffcv_gpu.kernels._inlining import inline_without_copies
from ffcv_gpu.kernels._turns import Turns

__all__ = ["body", "entry", "exact", "kernel", "loop", "shared"]

inline_without_copies("numba.core")
announcer = Announcer()

# Only `contract`: one rounding for a multiplication and the following addition, which is twice as fast and
# never less exact. With the other flags of fastmath, results would depend on the compiler's choices.
#
# Without numba's runtime (`_nrt`) an array is passed like a C pointer. With it, each slice and call updates
# an atomic reference count that all threads of the loader share: a fifth of the time on one core, more on
# many. Also, without it, code that would allocate does not compile.
SERIAL = {"nogil": True, "_nrt": False, "fastmath": {"contract"}, "error_model": "numpy"}

# Only Python calls entries, only entries call loops, and neither is passed on as a C function. Compiling what
# these calls would need took a fifth of the time.
UNCALLED = {"no_cfunc_wrapper": True}
INNER = UNCALLED | {"no_cpython_wrapper": True}

ADVICE = (
    "numba could not compile a kernel for this GPU: its compiler packages must be installed and know the "
    "GPU; pip install --upgrade 'ffcv-gpu[cuda13]', or 'ffcv-gpu[cuda12]' with a driver of CUDA 12 or a GPU "
    "below compute capability 7.5"
)

#: numba's own functions as compiled for this folder; see `compile_apart`
PIECES = {}


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


def announced(dispatcher):
    """Make a function say when it is compiled, by one process at a time, and do without a cache that fails.

    numba lets errors of the cache through: a disk that is full ends the first epoch, and an empty or cut
    file, as a crash of the machine leaves behind, ends the first epoch of every process. Private attributes,
    as below.
    """
    kept = getattr(dispatcher, "_cache", None)
    if not (hasattr(kept, "load_overload") and hasattr(kept, "save_overload")):
        return dispatcher
    compiled, load, save = dispatcher.compile, kept.load_overload, kept.save_overload
    folder = getattr(kept, "cache_path", None)
    turns = Turns(getattr(getattr(kept, "_cache_file", None), "_index_path", None))

    def compile_or_load(signature):
        try:
            return compiled(signature)
        finally:
            announcer.end()
            turns.give()

    def load_undamaged(*arguments):
        try:
            return load(*arguments)
        except OSError:
            return None
        except Exception:  # noqa: BLE001 (unpickling a damaged file raises anything)
            with suppress(OSError):
                kept.flush()  # else it could not be saved either: numba reads its index first
            return None

    def load_or_begin(*arguments):
        found = load_undamaged(*arguments)
        if found is None:
            announcer.begin(folder)
            if turns.take():
                found = load_undamaged(*arguments)
        return found

    def save_if_possible(*arguments):
        try:
            save(*arguments)
        except OSError as error:
            announcer.lose(folder, error)

    dispatcher.compile, kept.load_overload, kept.save_overload = (
        compile_or_load,
        load_or_begin,
        save_if_possible,
    )
    return dispatcher


def watch_folder(dispatcher):
    """Recompile when any file of this folder has changed.

    numba checks only the age of the entry's own file, and would keep running cached code compiled from older
    versions of the other files. The attributes are private: if they are missing, numba's rule applies.
    """
    kept = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(kept, "_source_stamp"):
        kept._source_stamp = (kept._source_stamp, folder_digest())


def label_kept(dispatcher):
    """Run cached code only for the types and the source that it was compiled for.

    numba caches a function in an index file and one numbered data file per signature, written one after the
    other. Two processes that compile different signatures at once take the same number, and the next process
    to start runs the wrong machine code: arrays with other dimensions overwrite the stack (a jump to address
    0). So each data file records what it holds, and code with another label is compiled again.
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
    """Load cached code without filling numba's registries of everything that it can compile.

    Filling them imports much of numba and, where it is installed, scipy: 0.25 s of a start that compiles
    nothing. Machine code does not need them, and a later compilation fills them first. Private attributes,
    as above.
    """
    kept = getattr(dispatcher, "_cache", None)
    if hasattr(kept, "_load_overload") and hasattr(kept, "_guard_against_spurious_io_errors"):
        kept.load_overload = partial(load_overload, kept)


def load_overload(kept, signature, target):
    """Do what numba's method of this name does, without the refresh of `target`."""
    with kept._guard_against_spurious_io_errors():
        return kept._load_overload(signature, target)


def compile_apart(dispatcher):
    """Compile with pieces of numba that were compiled for this folder.

    numba compiles the inside of `view`, `reshape` and others once a process, and then links it into all
    functions, whatever their options. If a user's function was first, the pieces count references. The code
    cached here would then call numba's runtime, which `load_bare` does not start: a jump to address 0 in the
    next process. Private attributes, as above.
    """
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

    compile_shared = dispatcher.compile

    def compile_own(signature):
        context = cpu_target.target_context
        if not hasattr(context, "cached_internal_func"):
            return compile_shared(signature)
        with global_compiler_lock:
            shared, context.cached_internal_func = context.cached_internal_func, PIECES
            try:
                return compile_shared(signature)
            finally:
                context.cached_internal_func = shared

    dispatcher.compile = compile_own


@cache
def folder_digest():
    """Return a text that changes with any file of this folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()

"""How compiled functions are kept on disk: workarounds for what numba's cache does wrong.

They change private attributes of numba's dispatchers and caches. Where one is missing, numba's own way
applies.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from ffcv_gpu.kernels._announcer import Announcer
from ffcv_gpu.kernels._turns import Turns

__all__ = ["announced", "compile_apart", "folder_digest", "label_kept", "load_bare", "watch_folder"]

announcer = Announcer()

#: numba's own functions as compiled for this folder; see `compile_apart`
PIECES = {}


def announced(dispatcher):
    """Make a function say when it is compiled, by one process at a time, and do without a cache that fails.

    numba lets errors of the cache through: a disk that is full ends the first epoch, and an empty or cut
    file, as a crash of the machine leaves behind, ends the first epoch of every process.
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
            turns.take()
            found = load_undamaged(*arguments)  # another process may have just finished
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
    versions of the other files.
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
    nothing. Machine code does not need them, and a later compilation fills them first.
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
    next process.
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

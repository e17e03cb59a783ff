"""Lets numba inline this folder's bodies without copying them first, and with small labels.

numba copies a function twice before it inlines it, block by block, and with each block the list of all its
variables. That was more than half of the time in which a CUDA kernel compiles
(github.com/NVIDIA/numba-cuda/issues/688, github.com/numba/numba/issues/8989). But the function has been read
anew for this one place, and nobody else needs it. The code is the same, to the last instruction.

A block's label names it. numba adds to the labels of a body the largest label of all that was compiled in
this process, and the labels of what is inlined in that body contain it already: each inlining doubled it.
After 168 fused CUDA kernels, NVVM refused names of a thousand digits (ERROR_INVALID_IR). So a body is read
as if it were the first, and a kernel adds a few thousand to the labels.
"""

from __future__ import annotations

import functools
from importlib import import_module

__all__ = ["inline_without_copies"]

FOLDER = __name__.rpartition(".")[0]


@functools.cache
def inline_without_copies(compiler):
    """Change numba's inliner, for functions of this folder only.

    Parameters
    ----------
    compiler : str
        ``"numba.core"`` or ``"numba.cuda.core"``. The names used in it are private: if one is missing,
        nothing is changed.
    """
    try:
        inliner = import_module(f"{compiler}.inline_closurecall").InlineWorker
        read, block = inliner.run_untyped_passes, import_module(f"{compiler}.ir").Block
        largest = import_module(f"{compiler}.ir_utils")._the_max_label
    except (ImportError, AttributeError):
        return

    class OwnBlock(block):
        def __deepcopy__(self, memo):
            return self

    @functools.wraps(read)
    def run_untyped_passes(worker, function, *args, **options):
        if not (function.__module__ or "").startswith(FOLDER):
            return read(worker, function, *args, **options)
        before, largest._value = largest._value, 0
        try:
            made = read(worker, function, *args, **options)
        finally:
            largest.update(before)
        for part in made.blocks.values():
            part.__class__ = OwnBlock
        return made

    inliner.run_untyped_passes = run_untyped_passes

"""Fetching memory into the cache before it is needed, for loops over payloads that lie anywhere in a file."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ffcv_gpu.kernels._numba import body

__all__ = ["prefetch"]

#: bytes of a cache line
LINE = 64
#: bytes that are fetched of each payload: by then, the processor has noticed that the loop reads on
MOST = 512
#: arguments of LLVM's intrinsic: read, keep in all caches, data
READ, KEEP, DATA = 0, 3, 1


@intrinsic
def prefetch_line(_, array, index):
    """Fetch the cache line of `array[index]`, of bytes; an address outside is ignored."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        builder.call(function, [address, word(READ), word(KEEP), word(DATA)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@body
def prefetch(array, begin, length):
    """Begin to fetch the first bytes of ``array[begin : begin + length]``, uint8, C-contiguous.

    Called for the payload that comes eight later, it makes gathering texts of 284 bytes in random order twice
    as fast (137 and 63 us for 512 of them).
    """
    for at in range(begin, begin + min(length, MOST), LINE):
        prefetch_line(array, at)

"""Calls of C functions by their addresses, from compiled code: without Python, so without its lock."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["foreign"]

#: C's types; a word is a pointer, a size_t, or half of a struct of 16 bytes that is passed by value, as it is
#: on x86-64 (System V) and on AArch64
INT, WORD = ir.IntType(32), ir.IntType(64)


def foreign(result, *parameters):
    """Return a function for compiled code: an address, then the C function's arguments; all are int64.

    Parameters
    ----------
    result : INT, WORD or None
        None: the C function returns nothing, and the call 0.
    *parameters : INT or WORD
    """
    kind = ir.FunctionType(ir.VoidType() if result is None else result, parameters)

    def emit(_context, builder, _signature, arguments):
        address, given = arguments[0], cgutils.unpack_tuple(builder, arguments[1])
        function = builder.inttoptr(address, kind.as_pointer())
        passed = [builder.trunc(a, p) if p is INT else a for a, p in zip(given, parameters, strict=True)]
        answer = builder.call(function, passed)
        if result is None:
            return WORD(0)
        return builder.sext(answer, WORD) if result is INT else answer

    def call(_typing, _address, *_arguments):
        return types.int64(types.int64, types.StarArgUniTuple(types.int64, len(parameters))), emit

    return intrinsic(call)

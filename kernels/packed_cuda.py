"""What a GPU can do and numba has no name for: four bytes or two weights in a word, memory at an address.

In numba's simulator the same is plain Python.
"""

from __future__ import annotations

import numpy as np
from numba.cuda.core import config

__all__ = [
    "dot_high",
    "dot_low",
    "float_of",
    "level",
    "memory_at",
    "multiplied",
    "pick",
    "shifted",
    "word_of",
]

if config.ENABLE_CUDASIM:
    from types import SimpleNamespace

    def pick(low, high, selector):
        """Return four bytes of the eight in two words; each hexadecimal digit of `selector` names one."""
        both, selector = int(high) << 32 | int(low), int(selector)
        return np.uint32(sum((both >> 8 * (selector >> 4 * k & 7) & 255) << 8 * k for k in range(4)))

    def shifted(low, high, by):
        """Return the four bytes that begin `by` bytes into two words; the lowest two bits of `by` count."""
        return np.uint32((int(high) << 32 | int(low)) >> 8 * (int(by) & 3) & 0xFFFFFFFF)

    def dot_low(weights, word, total):
        """Return `total` plus the products of two weights with the lower two bytes of a word."""
        weights, word = int(weights), int(word)
        return np.uint32(int(total) + (weights & 65535) * (word & 255) + (weights >> 16) * (word >> 8 & 255))

    def dot_high(weights, word, total):
        """Return the same with the upper two bytes."""
        return dot_low(weights, int(word) >> 16, total)

    def multiplied(one, two, total):
        """Return `total`, 64 bits, plus the product of two words."""
        return np.uint64(int(one) * int(two) + int(total))

    def level(byte):
        """Return a byte as a float32."""
        return np.float32(byte)

    def word_of(number):
        """Return the bits of a float32 as an int32."""
        return np.float32(number).view(np.int32)

    def float_of(word):
        """Return the float32 that has these bits."""
        return np.int32(word).view(np.float32)

    def memory_at(address, dtype):
        """Return memory as an array whose end is not known."""
        place = {"data": (int(address), False), "shape": (1 << 40,), "typestr": np.dtype(dtype).str}
        return np.asarray(SimpleNamespace(__array_interface__=place | {"version": 3}))

else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic
    from numba.cuda.np.arrayobj import populate_array

    GLOBAL_MEMORY = 1  # an address space of NVVM

    def instruction(name, result=types.uint32):
        """Return what emits one instruction: a word and a word, and a third number of the result's type."""

        def emit(context, builder, signature, arguments):
            kinds = [context.get_value_type(kind) for kind in signature.args]
            last = "r" if result is types.uint32 else "l"
            asm = ir.InlineAsm(
                ir.FunctionType(kinds[-1], kinds), f"{name} $0, $1, $2, $3;", f"={last},r,r,{last}"
            )
            return builder.call(asm, arguments)

        return result(types.uint32, types.uint32, result), emit

    @intrinsic
    def pick(_typing, low, high, selector):
        """Do what the simulator's function of this name does, and so below."""
        return instruction("prmt.b32")

    @intrinsic
    def shifted(_typing, low, high, by):
        """`prmt` in its mode "forward 4 extract"."""
        return instruction("prmt.b32.f4e")

    @intrinsic
    def dot_low(_typing, weights, word, total):
        """A dot product of two accumulated."""
        return instruction("dp2a.lo.u32.u32")

    @intrinsic
    def dot_high(_typing, weights, word, total):
        """The same for the upper two bytes."""
        return instruction("dp2a.hi.u32.u32")

    @intrinsic
    def multiplied(_typing, one, two, total):
        """One instruction, which LLVM may not take to pieces to save an addition elsewhere."""
        return instruction("mad.wide.u32", types.uint64)

    @intrinsic
    def level(_typing, byte):
        """Converted as a word, by a fast unit; LLVM would choose the conversion of bytes, by a slow one."""

        def emit(_context, builder, _signature, arguments):
            kind = ir.FunctionType(ir.FloatType(), [ir.IntType(32)])
            word = builder.zext(arguments[0], ir.IntType(32))
            return builder.call(ir.InlineAsm(kind, "cvt.rn.f32.u32 $0, $1;", "=f,r"), [word])

        return types.float32(types.uint8), emit

    def recast(source, target):
        """Return what emits the bits of a number as another kind of number."""
        return target(source), lambda context, builder, _, arguments: builder.bitcast(
            arguments[0], context.get_value_type(target)
        )

    @intrinsic
    def word_of(_typing, number):
        """No instruction."""
        return recast(types.float32, types.int32)

    @intrinsic
    def float_of(_typing, word):
        """No instruction."""
        return recast(types.int32, types.float32)

    @intrinsic
    def memory_at(_typing, address, dtype):
        """An array of numba's with that address; its length is 0, and nobody asks for it."""
        array_type = types.Array(dtype.dtype, 1, "C")

        def emit(context, builder, _signature, arguments):
            element = context.get_data_type(array_type.dtype)
            place = builder.inttoptr(arguments[0], element.as_pointer(GLOBAL_MEMORY))
            made = context.make_array(array_type)(context, builder)
            size = context.get_constant(types.intp, context.get_abi_sizeof(element))
            zero = context.get_constant(types.intp, 0)
            populate_array(
                made, builder.addrspacecast(place, element.as_pointer()), [zero], [size], size, meminfo=None
            )
            return made._getvalue()

        return array_type(types.int64, dtype), emit

"""What a GPU can do and numba has no name for: four bytes or two weights in a word, memory at an address.

Words are uint32; the instructions are described in NVIDIA's "PTX ISA".
"""

from __future__ import annotations

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic
from numba.cuda.np.arrayobj import populate_array

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
    """Return four bytes of the eight in two words; each hexadecimal digit of `selector` names one."""
    return instruction("prmt.b32")


@intrinsic
def shifted(_typing, low, high, by):
    """Return the four bytes that begin `by` bytes into two words; the lowest two bits of `by` count."""
    return instruction("prmt.b32.f4e")


@intrinsic
def dot_low(_typing, weights, word, total):
    """Return `total` plus the products of two 16-bit weights with the lower two bytes of a word."""
    return instruction("dp2a.lo.u32.u32")


@intrinsic
def dot_high(_typing, weights, word, total):
    """Return the same with the upper two bytes."""
    return instruction("dp2a.hi.u32.u32")


@intrinsic
def multiplied(_typing, one, two, total):
    """Return `total`, 64 bits, plus the product of two words, by one instruction.

    LLVM may not take it to pieces to save an addition elsewhere.
    """
    return instruction("mad.wide.u32", types.uint64)


@intrinsic
def level(_typing, byte):
    """Return a byte as a float32.

    Converted as a word, by a fast unit; LLVM would choose the conversion of bytes, by a slow one.
    """

    def emit(_context, builder, _signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [ir.IntType(32)])
        word = builder.zext(arguments[0], ir.IntType(32))
        return builder.call(ir.InlineAsm(kind, "cvt.rn.f32.u32 $0, $1;", "=f,r"), [word])

    return types.float32(types.uint8), emit


def recast(source, target):
    """Return what emits the bits of a number as another kind of number: no instruction."""
    return target(source), lambda context, builder, _, arguments: builder.bitcast(
        arguments[0], context.get_value_type(target)
    )


@intrinsic
def word_of(_typing, number):
    """Return the bits of a float32 as an int32."""
    return recast(types.float32, types.int32)


@intrinsic
def float_of(_typing, word):
    """Return the float32 that has these bits."""
    return recast(types.int32, types.float32)


@intrinsic
def memory_at(_typing, address, dtype):
    """Return memory as an array. Its length is 0, and nobody asks for it."""
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

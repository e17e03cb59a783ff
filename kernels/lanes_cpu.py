"""A vector of four float32, for the loop over pixels that LLVM does not vectorise by itself.

It processes the three or four channels of a pixel at once. LLVM's loop vectoriser cannot do that (its lanes
are iterations, and the pixels that iterations read may lie anywhere), and numba disables its other
vectoriser. With this type the loop is three times as fast.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = ["load", "madd", "mul", "mul_add", "store", "zero"]

COUNT = 4
VECTOR = ir.VectorType(ir.FloatType(), COUNT)
FLOAT_BYTES = 4
WORD = ir.IntType(32)


class Lanes(types.Type):
    """Numba's name for the type."""

    def __init__(self):
        super().__init__(name="Lanes")


LANES = Lanes()


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """Its memory layout: LLVM's vector of four."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, VECTOR)


def vector_pointer(context, builder, kind, array, index):
    """Return the address of `array[index]` as a vector pointer, without bounds check or wrap-around."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


@intrinsic
def zero(typing):
    """Return four zeros."""
    return LANES(), lambda context, builder, signature, args: ir.Constant(VECTOR, [0.0] * COUNT)


@intrinsic
def load(typing, array, index):
    """Return elements [index, index + 4) of a contiguous float32 array."""

    def generate(context, builder, signature, args):
        pointer = vector_pointer(context, builder, signature.args[0], *args)
        return builder.load(pointer, align=FLOAT_BYTES)

    return LANES(array, types.intp), generate


@intrinsic
def store(typing, array, index, lanes):
    """Write elements [index, index + 4) of a contiguous float32 array."""

    def generate(context, builder, signature, args):
        pointer = vector_pointer(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], pointer, align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), generate


@intrinsic
def mul(typing, weight, lanes):
    """Return `weight * lanes`, for one float32 `weight`."""

    def generate(context, builder, signature, args):
        return builder.fmul(all_lanes(builder, args[0]), args[1])

    return LANES(types.float32, LANES), generate


@intrinsic
def madd(typing, weight, lanes, total):
    """Return `total + weight * lanes`, for one float32 `weight`."""
    return LANES(types.float32, LANES, LANES), multiply_and_add(("contract",))


@intrinsic
def mul_add(typing, weight, lanes, total):
    """Return `total + weight * lanes` with the product rounded before it is added."""
    return LANES(types.float32, LANES, LANES), multiply_and_add(())


def multiply_and_add(flags):
    """Return a function that emits LLVM's instructions for it."""

    def generate(context, builder, signature, args):
        weight, lanes, total = args
        product = builder.fmul(all_lanes(builder, weight), lanes, flags=flags)
        return builder.fadd(product, total, flags=flags)

    return generate


def all_lanes(builder, value):
    """Return `value` four times."""
    first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(WORD, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(WORD, COUNT), [0] * COUNT))

"""What PTX instructions compute, on arrays with one element per thread.

Formulas are those of NVIDIA's "PTX ISA", chapter "Instruction Set". Where hardware may round a product and a
sum once (``mul.f32`` and ``add.f32`` without ``.rn``), both are rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COMPARISONS", "DTYPES", "OPERATIONS", "convert", "wide_dtype"]

Array = npt.NDArray[Any]

DTYPES: dict[str, Any] = {
    "pred": np.bool_, "f32": np.float32,
    "u8": np.uint8, "s8": np.int8, "b8": np.uint8, "u16": np.uint16, "s16": np.int16, "b16": np.uint16,
    "u32": np.uint32, "s32": np.int32, "b32": np.uint32, "u64": np.uint64, "s64": np.int64, "b64": np.uint64,
}  # fmt: skip

COMPARISONS: dict[str, Callable[[Array, Array], Any]] = {
    "eq": np.equal,
    "ne": lambda a, b: (a < b) | (a > b),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}

#: of `cvt` to whole numbers, and to whole numbers in floating point
ROUNDINGS: dict[str, Callable[[Array], Any]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}


def wide_dtype(dtype: Any) -> Any:
    """Return the type of twice the size."""
    return np.dtype(f"{np.dtype(dtype).kind}{2 * np.dtype(dtype).itemsize}").type


def quotient(a: Array, b: Array) -> Array:
    """Return a / b, rounded towards 0 as PTX does and numpy does not."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if np.any(b == 0):
        raise ZeroDivisionError("div or rem by 0: undefined in PTX")
    if a.dtype.kind == "u":
        return np.floor_divide(a, b)
    down = np.floor_divide(a, b)
    return np.where((down * b != a) & (down < 0), down + a.dtype.type(1), down)


def remainder(a: Array, b: Array) -> Array:
    return a - quotient(a, b) * b


def high(a: Array, b: Array) -> Array:
    """Return the upper half of the product."""
    bits = 8 * a.dtype.itemsize
    pairs = np.broadcast_arrays(np.atleast_1d(a), b)
    products = [(int(x) * int(y) >> bits) & (1 << bits) - 1 for x, y in zip(*pairs, strict=True)]
    return np.array(products, f"u{a.dtype.itemsize}").view(a.dtype)


def wide(a: Array, b: Array) -> Array:
    """Return the whole product, of twice the size."""
    dtype = wide_dtype(a.dtype)
    return a.astype(dtype) * b.astype(dtype)


def fused(a: Array, b: Array, c: Array) -> Array:
    """Return a * b + c, rounded once but for ties of float64: the product of two float32 is exact there."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def left(a: Array, by: Array) -> Array:
    """Shift left; by the width and more gives 0."""
    return shift(np.left_shift, a, by, a.dtype.type(0))


def right(a: Array, by: Array) -> Array:
    """Shift right; by the width and more gives the sign everywhere."""
    beyond = np.where(a < 0, a.dtype.type(-1), a.dtype.type(0)) if a.dtype.kind == "i" else a.dtype.type(0)
    return shift(np.right_shift, a, by, beyond)


def shift(operation: Any, a: Array, by: Array, beyond: Any) -> Array:
    bits = 8 * a.dtype.itemsize
    amount = np.minimum(by, bits - 1).astype(a.dtype)
    return np.where(by < bits, operation(a, amount), beyond).astype(a.dtype)


def insert_bits(a: Array, b: Array, position: Array, length: Array) -> Array:
    """``bfi``: b with `length` bits from `position` on replaced by the low bits of a."""
    bits = 8 * a.dtype.itemsize
    found = []
    for x, y, p, n in zip(
        *np.broadcast_arrays(np.atleast_1d(a), b, position & 255, length & 255), strict=True
    ):
        mask = ((1 << int(n)) - 1) << int(p) & (1 << bits) - 1
        found.append(int(y) & ~mask | int(x) << int(p) & mask)
    return np.array(found, a.dtype)


def permute(a: Array, b: Array, selector: Array) -> Array:
    """``prmt.b32``: each of four 4-bit numbers selects one of 8 bytes, or with bit 3 its sign."""
    both = b.astype(np.uint64) << np.uint64(32) | a
    found = np.zeros(both.shape, np.uint64)
    for k in range(4):
        nibble = np.broadcast_to(selector, both.shape).astype(np.uint64) >> np.uint64(4 * k)
        byte = both >> np.uint64(8) * (nibble & np.uint64(7)) & np.uint64(255)
        sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
        found |= np.where(nibble & np.uint64(8), sign, byte) << np.uint64(8 * k)
    return found.astype(np.uint32)


def forward_four(a: Array, b: Array, selector: Array) -> Array:
    """``prmt.b32.f4e``: four bytes that follow each other, from byte `selector` & 3 on."""
    both = b.astype(np.uint64) << np.uint64(32) | a
    return (both >> np.uint64(8) * (selector & 3).astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def dot_two(first: int) -> Callable[[Array, Array, Array], Array]:
    """``dp2a.u32.u32``: two 16-bit numbers times two bytes from byte `first` on, accumulated."""

    def accumulate(a: Array, b: Array, c: Array) -> Array:
        one, two = b >> np.uint32(8 * first) & np.uint32(255), b >> np.uint32(8 * first + 8) & np.uint32(255)
        return c + (a & np.uint32(0xFFFF)) * one + (a >> np.uint32(16)) * two

    return accumulate


def select(a: Array, b: Array, chosen: Array) -> Array:
    return np.where(chosen, a, b)


def convert(a: Array, dtype: Any, suffixes: tuple[str, ...]) -> Array:
    """``cvt``: to whole numbers with saturation, as hardware does for floating point; NaN gives 0."""
    for suffix in suffixes:
        if suffix in ROUNDINGS:
            a = ROUNDINGS[suffix](a)
    if a.dtype.kind != "f" or dtype == np.float32:
        return a.astype(dtype)
    limits, exact = np.iinfo(dtype), np.nan_to_num(a.astype(np.float64))
    inside = np.where((exact > limits.min) & (exact < limits.max), exact, 0).astype(dtype)
    beyond = np.where(exact >= limits.max, limits.max, inside)
    return np.where(exact <= limits.min, limits.min, beyond).astype(dtype)


#: by name, or by name and a suffix that changes what is computed; all operands have the instruction's type
#: but those in `machine.OTHER_TYPES`
OPERATIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "neg": np.negative, "not": np.invert, "mov": lambda a: a,
    "rcp": lambda a: a.dtype.type(1) / a,
    "add": np.add, "sub": np.subtract, "div": quotient, "rem": remainder,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "shl": left, "shr": right,
    "min": np.fmin, "max": np.fmax, "selp": select, "fma": fused, "bfi": insert_bits,
    "mul": np.multiply, "mul.lo": np.multiply, "mul.hi": high, "mul.wide": wide,
    "mad.lo": lambda a, b, c: a * b + c, "mad.wide": lambda a, b, c: wide(a, b) + c,
    "prmt": permute, "prmt.f4e": forward_four, "dp2a.lo": dot_two(0), "dp2a.hi": dot_two(2),
}  # fmt: skip

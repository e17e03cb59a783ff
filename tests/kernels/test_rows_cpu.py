"""The loops where a CPU's time goes are made of vector instructions, and allocate nothing."""

from __future__ import annotations

import re
from typing import Any

import numba
import numpy as np
import pytest

from ffcv_gpu.kernels import rows_cpu

FLOATS = np.zeros(64, np.float32)
BYTES = np.zeros(64, np.uint8)
STARTS = np.zeros(8, np.uint32)
WEIGHT = np.float32(0.5)

CALLS: dict[str, tuple[Any, ...]] = {
    "blend": (FLOATS, WEIGHT, FLOATS.copy(), WEIGHT, BYTES),
    "blend_bytes": (BYTES, 0, 16, 16, FLOATS[:2].copy(), FLOATS),
    "stretch": (FLOATS, 3, STARTS, FLOATS[:16].copy(), FLOATS.copy()),
    "to_bytes": (FLOATS, BYTES),
    "widen": (BYTES, FLOATS),
}
# llvm: "fmul contract <8 x float>", "uitofp <16 x i8>"
VECTOR_WORK = re.compile(r"= (?:fmul|fadd|uitofp)[a-z ]*<\d+ x (?:float|i8)>")


def llvm_of(loop: Any, arguments: tuple[Any, ...]) -> str:
    loop.compile(tuple(numba.typeof(argument) for argument in arguments))
    return "\n".join(loop.inspect_llvm().values())


@pytest.mark.parametrize("name", CALLS)
def test_loops_are_vectorised_and_count_no_references(name: str) -> None:
    llvm = llvm_of(getattr(rows_cpu, name), CALLS[name])
    assert VECTOR_WORK.search(llvm)
    assert "NRT_" not in llvm


def test_the_net_catches_a_loop_that_is_not_vectorised() -> None:
    """The same pattern on a loop whose every step waits for the one before it."""
    from ffcv_gpu.kernels._numba import loop

    @loop
    def chain(values, weight):
        total = np.float32(0.0)
        for i in range(values.size):
            total = total * weight + values[i]
        return total

    assert not VECTOR_WORK.search(llvm_of(chain, (FLOATS, WEIGHT)))

"""Bodies of this folder are inlined uncopied, other functions as numba does it; the code is the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numba import njit, types

from ffcv_gpu.kernels import pointwise
from ffcv_gpu.kernels._inlining import inline_without_copies
from ffcv_gpu.kernels.color import turned

COMPILERS = ["numba.core", "numba.cuda.core"]


def caller(function: Any) -> Callable[..., None]:
    def kernel(values: Any) -> None:
        values[0] = function(np.float32(values[1]))

    return kernel


def colours(values: Any) -> None:
    """A kernel with a body that has bodies of its own."""
    red, green, blue = turned(
        np.float32(values[0]), np.float32(values[1]), np.float32(values[2]), np.float32(0.25)
    )
    values[0], values[1] = pointwise.to_byte(red), pointwise.to_byte(green)
    values[2] = pointwise.to_byte(blue)


def compiled(compiler: str, kernel: Callable[..., None]) -> str:
    """Return the instructions that a compiler makes of a kernel, without the names in which numba counts."""
    array = types.Array(types.uint8, 1, "C")
    if compiler == "numba.core":
        (text,) = njit(types.void(array))(kernel).inspect_asm().values()
    else:
        cuda = pytest.importorskip("numba.cuda")
        options: Any = {"cc": (9, 0), "output": "ptx", "device": False, "abi": "numba"}
        text = cuda.compile(kernel, types.void(array), **options)[0]
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(".")]
    assert len(lines) > 20
    return re.sub(r"[\w.]*(_ZN|__cudapy_)[\w.$]+", "NAME", "\n".join(lines))


def theirs(value: Any) -> Any:
    return np.uint8(min(value, np.float32(3.0)))


@pytest.fixture
def copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variables that a compiler's inliner copies from now on."""
    pytest.importorskip(request.param)
    inline_without_copies(request.param)
    variable, seen = import_module(f"{request.param}.ir").Var, list[str]()
    copy = variable.__deepcopy__
    monkeypatch.setattr(
        variable, "__deepcopy__", lambda self, memo: seen.append(self.name) or copy(self, memo)
    )
    return seen


@pytest.mark.parametrize(("copies", "compiler"), [(c, c) for c in COMPILERS], indirect=["copies"])
def test_no_variable_of_a_body_is_copied(copies: list[str], compiler: str) -> None:
    compiled(compiler, caller(pointwise.to_byte))
    assert not copies
    compiled(compiler, caller(njit(inline="always")(theirs)))
    assert copies


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_code_is_that_of_numbas_own_inliner(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(compiler)
    inline_without_copies(compiler)
    ours = compiled(compiler, colours)
    worker = import_module(f"{compiler}.inline_closurecall").InlineWorker
    monkeypatch.setattr(worker, "run_untyped_passes", worker.run_untyped_passes.__wrapped__)
    assert compiled(compiler, colours) == ours


@pytest.mark.parametrize("compiler", COMPILERS)
def test_labels_stay_small(compiler: str) -> None:
    """Each kernel adds as much as the first; with numba's own labels, five of these reach 170,000."""
    pytest.importorskip(compiler)
    inline_without_copies(compiler)
    largest = import_module(f"{compiler}.ir_utils")._the_max_label
    before = largest.next()
    for _ in range(5):
        compiled(compiler, colours)
    assert before < largest.next() < before + 10_000


def test_a_compiler_without_these_names_is_left_alone() -> None:
    inline_without_copies("numba.no_such_compiler")
    inline_without_copies("json")

"""Every specialisation of the fused kernels compiles without a GPU: 32-bit floats, registers, spills."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.test_bodies_on_cuda import CAPABILITIES, find_ptxas
from tests.ptx.compiled import ptx_of

pytest.importorskip("numba.cuda")

#: (channels, antialias, coloured) of interleaved pixels; (antialias, coloured) of planes
PIXELS = [
    (c, a, colour)
    for c in (1, 3, 4)
    for a in (False, True)
    for colour in (False, True)
    if c < 4 or not colour
]
PLANES = [(a, colour) for a in (False, True) for colour in (False, True)]
SPECIALISATIONS = [*PIXELS, *PLANES]
#: those that are compiled in every run of the tests, the others in the long ones
USUAL = [(3, False, False), (3, False, True), (3, True, False), (1, False, False), (False, False)]
MOST_REGISTERS = 64
#: bytes that a thread may keep in memory for want of registers: three channels, see
#: `pixels_cuda.launch_bounds`; with `antialias` only in PTX made for 7.5
SPILLS = {(8, 0): 20, (8, 6): 20, (8, 9): 20, (9, 0): 20, (10, 0): 40}
SPILLS_OF_OLD_ANTIALIAS = {(12, 0): 60}


def title(specialisation: tuple[Any, ...]) -> str:
    kind = "planes" if len(specialisation) == 2 else f"{specialisation[0]} channels"
    antialias, coloured = specialisation[-2:]
    return ", ".join([kind, *["antialias"] * antialias, *["colour"] * coloured])


def ptx_of_fused(specialisation: tuple[Any, ...], capability: tuple[int, int], dtype: str = "uint16") -> str:
    from ffcv_gpu.kernels import pixels_cuda, planes_cuda

    planes = len(specialisation) == 2
    kernel = (planes_cuda if planes else pixels_cuda).make_kernel(*specialisation, getattr(np, dtype))
    bounds = None if planes else pixels_cuda.launch_bounds(*specialisation[:2])
    return ptx_of(kernel, ("int64",) * 3, capability, bounds)


def check_ptx(ptx: str) -> None:
    assert ".visible .entry" in ptx
    assert ".f64" not in ptx
    assert ".local" not in ptx


def check_fused_ptx(ptx: str) -> None:
    check_ptx(ptx)
    assert not re.search(r"\b(div|rem)\.[su]64", ptx)


def spills_of(specialisation: tuple[Any, ...], capability: tuple[int, int], *, old: bool = False) -> int:
    found = {(3, False): SPILLS, (3, True): SPILLS_OF_OLD_ANTIALIAS if old else {}}
    return found.get(specialisation[:2], {}).get(capability, 0)


def check_machine_code(ptx: str, capability: tuple[int, int], folder: Path, spills: int = 0) -> None:
    """Of what ptxas makes for a capability: registers, and bytes that spill from them."""
    path = folder / "kernel.ptx"
    path.write_text(ptx)
    target = f"-arch=sm_{capability[0]}{capability[1]}"
    command = [find_ptxas(), target, "-v", str(path), "-o", str(folder / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spilled = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", done.stderr)
    assert spilled is not None and max(map(int, spilled.groups())) <= spills, (capability, done.stderr)
    registers = re.search(r"Used (\d+) registers", done.stderr)
    assert registers is not None
    assert int(registers[1]) <= MOST_REGISTERS, capability


@pytest.mark.parametrize(
    "specialisation",
    [pytest.param(s, marks=[] if s in USUAL else pytest.mark.long, id=title(s)) for s in SPECIALISATIONS],
)
def test_every_specialisation_fits_every_capability(specialisation: Any, tmp_path: Path) -> None:
    """PTX for 7.5, which every newer GPU takes; machine code of it for each."""
    ptx = ptx_of_fused(specialisation, (7, 5))
    check_fused_ptx(ptx)
    for capability in CAPABILITIES:
        check_machine_code(ptx, capability, tmp_path, spills_of(specialisation, capability, old=True))


@pytest.mark.parametrize("capability", [(9, 0)], ids="sm_{0[0]}{0[1]}".format)
def test_ptx_of_its_own_capability(capability: tuple[int, int], tmp_path: Path) -> None:
    """What numba makes on such a GPU; one specialisation here, all of them in the long tests."""
    ptx = ptx_of_fused((3, False, False), capability)
    check_fused_ptx(ptx)
    check_machine_code(ptx, capability, tmp_path, spills_of((3, False, False), capability))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
def test_all_of_them(capability: tuple[int, int], dtype: str, tmp_path: Path) -> None:
    for specialisation in SPECIALISATIONS:
        ptx = ptx_of_fused(specialisation, capability, dtype)
        check_fused_ptx(ptx)
        check_machine_code(ptx, capability, tmp_path, spills_of(specialisation, capability))


def test_sentinels_compile(tmp_path: Path) -> None:
    from ffcv_gpu.kernels.sentinel_cuda import compare_marks, write_marks

    arrays = ("uint8*", "int64*", "uint8*")
    for kernel, types in ((write_marks, arrays), (compare_marks, (*arrays, "uint8*"))):
        ptx = ptx_of(kernel, (*types, "int32"), (7, 5))
        check_ptx(ptx)
        check_machine_code(ptx, (7, 5), tmp_path)

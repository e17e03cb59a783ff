"""The launches on finished images compile to PTX and machine code without doubles, local memory or spills.

No driver is needed: the compiler comes with the packages. What they compute is tried in numba's simulator.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ffcv_gpu.kernels.pass_block import PassLayout
from ffcv_gpu.kernels.pass_codes import PASS_BLUR, PASS_PAD, PASS_SHARPEN
from tests.kernels.pass_launches import cases, compare
from tests.kernels.test_bodies_on_cuda import CAPABILITIES
from tests.kernels.test_cuda_code import check_machine_code

cuda = pytest.importorskip("numba.cuda")
passes_cuda = pytest.importorskip("ffcv_gpu.kernels.passes_cuda")

KERNELS = [name for name in passes_cuda.__all__ if name.islower()]
#: the arrays of each kernel by parameter name; everything else is int32
ARRAYS = {
    **dict.fromkeys(("images", "out", "pixels", "fill"), "uint8"),
    **dict.fromkeys(("params", "weights", "between", "amounts", "matrices"), "float32"),
    **dict.fromkeys(("modes", "chosen", "keep", "add", "limits"), "float32"),
    "table": "int64",
}


@functools.cache
def ptx_of(name: str, capability: tuple[int, int]) -> str:
    from numba import types

    kernel = getattr(passes_cuda, name)
    arguments = [
        types.Array(getattr(types, ARRAYS[parameter]), 1, "C") if parameter in ARRAYS else types.int32
        for parameter in inspect.signature(kernel).parameters
    ]
    signature = types.void(*arguments)
    ptx, _ = cuda.compile(kernel, signature, cc=capability, output="ptx", device=False, abi="numba")
    return str(ptx)


@pytest.mark.parametrize("name", KERNELS)
def test_ptx_has_no_doubles_and_no_local_memory(name: str) -> None:
    for capability in ((7, 5), (9, 0)):
        ptx = ptx_of(name, capability)
        assert ".visible .entry" in ptx
        assert ".f64" not in ptx
        assert ".local" not in ptx


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
def test_machine_code_spills_nothing_and_leaves_room_for_full_occupancy(
    capability: tuple[int, int], tmp_path: Path
) -> None:
    """Of PTX for 7.5, which every newer GPU takes, and for 9.0 of its own."""
    for name in KERNELS:
        ptx = ptx_of(name, capability if capability == (9, 0) else (7, 5))
        check_machine_code(ptx, capability, tmp_path)


def test_launches_in_the_simulator_give_what_the_cpu_gives(tmp_path: Path) -> None:
    launches = cases()
    packed = {n: (c.layout, c.memory.copy(), c.source, c.target, c.scratch) for n, c in launches.items()}
    (tmp_path / "in").write_bytes(pickle.dumps(packed))
    script = Path(__file__).with_name("simulate_passes.py")
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    simulated = pickle.loads((tmp_path / "out").read_bytes())
    for name, case in launches.items():
        compare(name, case, simulated[name])


def test_a_grid_has_one_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Along the others a GPU has 65535 blocks at most: not enough for one image of 2400 x 2400."""
    from ffcv_gpu.kernels import shell_passes_cuda

    grids = []
    monkeypatch.setattr(shell_passes_cuda, "compiled", lambda name: name)
    monkeypatch.setattr(
        shell_passes_cuda, "configured", lambda name, grid, *_: lambda *_: grids.append((name, grid))
    )
    nothing = np.zeros(0, np.uint8)
    views = SimpleNamespace(pixels=nothing, longs=nothing, words=nothing, reals=nothing)
    for kernel in (PASS_PAD, PASS_BLUR, PASS_SHARPEN):
        shell_passes_cuda.transform(views, PassLayout(70_000, kernel, (2400, 2400, 3)), 0, 0, 0, 0)
    assert dict(grids) == dict.fromkeys(
        ("pad", "blur_columns", "blur_rows", "sharpen"), (70_000 * 67_500, 1, 1)
    )

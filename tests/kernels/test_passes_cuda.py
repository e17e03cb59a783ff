"""The launches on finished images compile to PTX and machine code without doubles, local memory or spills.

No driver is needed: the compiler comes with the packages. They are run on a GPU by the tests marked gpu.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

cuda = pytest.importorskip("numba.cuda")
passes_cuda = pytest.importorskip("ffcv_gpu.kernels.passes_cuda")

CAPABILITIES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0)]
KERNELS = [name for name in passes_cuda.__all__ if name.islower()]
#: the arrays of each kernel by parameter name; everything else is int32
ARRAYS = {
    **dict.fromkeys(("images", "out", "pixels", "fill"), "uint8"),
    **dict.fromkeys(("params", "weights", "between", "amounts", "matrices"), "float32"),
    **dict.fromkeys(("modes", "chosen", "keep", "add", "limits"), "float32"),
    "table": "int64",
}


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


def find_ptxas() -> str:
    """Path of ptxas: the nvidia-cuda-nvcc wheel's, else one on PATH; skips without."""
    nvidia = find_spec("nvidia")
    for folder in nvidia.submodule_search_locations or () if nvidia else ():
        for path in sorted(Path(folder).glob("*/bin/ptxas")):
            return str(path)
    found = shutil.which("ptxas")
    if found is None:
        pytest.skip("no ptxas: neither the nvidia-cuda-nvcc wheel nor one on PATH")
    return found


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
    ptxas = find_ptxas()
    for name in KERNELS:
        path = tmp_path / f"{name}.ptx"
        path.write_text(ptx_of(name, capability))
        target = f"-arch=sm_{capability[0]}{capability[1]}"
        command = [ptxas, target, "-v", str(path), "-o", str(tmp_path / "kernel.cubin")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)
        assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr
        registers = re.search(r"Used (\d+) registers", done.stderr)
        assert registers is not None and int(registers[1]) <= 64, (name, done.stderr)

"""The launches on finished images compile to PTX and machine code without doubles, local memory or spills.

No driver is needed: the compiler comes with the packages. What they compute is tried in numba's simulator.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.kernels import codes, passes_cpu

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


def given() -> dict[str, npt.NDArray[Any]]:
    """Arguments for three small images, one of them neutral everywhere."""
    rng = np.random.default_rng(0)
    table = np.zeros((3, codes.TABLE_COLUMNS), np.int64)
    table[:, codes.COLUMN_OFFSET0] = np.arange(3) * 7 * 9 * 3
    table[:, codes.COLUMN_PITCH0], table[:, codes.COLUMN_HEIGHT] = 9 * 3, (7, 7, 4)
    table[:, codes.COLUMN_WIDTH] = (9, 5, 9)
    turn = (np.cos(0.4), np.sin(0.4), 0.5, -np.sin(0.4), np.cos(0.4), -1)
    reals = {
        "amounts": [0, -0.7, 1.3],
        "weights": [[0, 0, 1, 0, 0], [0.1, 0.2, 0.4, 0.2, 0.1], [0.2] * 5],
        "matrices": [(1, 0, 0, 0, 1, 0), turn, (1, 0.3, 0, 0, 1, 2)],
        "modes": [0, 1, 2],
        "chosen": [0, 1, 1],
        "limits": [20, 200],
        "keep": rng.random((7, 9, 3)),
    }
    images = rng.integers(30, 220, (3, 7, 9, 3), dtype=np.uint8)
    return {
        "images": images,
        "fill": np.array([1, 2, 3], np.uint8),
        "table": table,
        **{name: np.array(values, np.float32) for name, values in reals.items()},
    }


def on_cpu(g: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The same by the CPU's loops."""
    images, scratch = g["images"], np.empty(4000, np.float32)
    made = {name: np.zeros_like(images) for name in ("sharpen", "blur", "warp")}
    passes_cpu.sharpen(images, g["amounts"][:, None], made["sharpen"], 0, 3)
    passes_cpu.blur(images, g["weights"], made["blur"], scratch, 0, 3)
    passes_cpu.warp(images, g["matrices"], g["fill"], made["warp"], 0, 3)
    made |= {name: images.copy() for name in ("remap", "blend")}
    passes_cpu.remap(made["remap"], g["modes"][:, None], scratch, 0, 3)
    passes_cpu.blend(made["blend"], g["chosen"][:, None], g["keep"], g["keep"], g["limits"], 0, 3)
    params, padded = np.zeros((3, 3), np.float32), np.zeros((3, 9, 12, 3), np.uint8)
    passes_cpu.mean_grey(images, params, 1, 0, 3)
    passes_cpu.pad(images.reshape(-1), np.zeros(1, np.uint8), g["table"], padded, 0, 3)
    return {**made, "mean_grey": params, "pad": padded}


def test_the_kernels_run_in_the_simulator_give_what_the_cpu_gives(tmp_path: Path) -> None:
    arguments = given()
    np.savez(tmp_path / "in.npz", **arguments)
    script = Path(__file__).with_name("simulate_passes.py")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, str(script), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    simulated = np.load(tmp_path / "out.npz")
    for name, expected in on_cpu(arguments).items():
        apart = np.abs(simulated[name].astype(float) - expected.reshape(3, -1))
        # a CPU rounds once where the simulator rounds a product and a sum
        assert apart.max() <= (1e-4 if name == "mean_grey" else 1) and (apart > 0).mean() < 0.02, name

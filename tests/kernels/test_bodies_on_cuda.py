"""Every inline body compiles into a CUDA kernel on a machine without a GPU, in 32-bit floats and registers.

One kernel per chapter, calling the bodies as a launch would. ptxas then makes machine code of it, which
shows what PTX does not: registers and spills.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from numpy import float32

from ffcv_gpu.kernels import erase, pointwise, resample
from ffcv_gpu.kernels.erase import is_erased
from ffcv_gpu.kernels.pointwise import to_byte
from ffcv_gpu.kernels.resample import (
    antialias_end,
    antialias_start,
    antialias_weight,
    area_end,
    area_start,
    area_weight,
    axis_filter,
    frame_position,
    linear_fraction,
    nearest_pixel,
)

cuda = pytest.importorskip("numba.cuda")

CAPABILITIES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


def resample_kernel(source, target, size, out_size, sign, shift):
    p = cuda.grid(1)
    if p < out_size:
        i = frame_position(p, sign, shift, out_size)
        area = float32(0.0)
        for tap in range(area_start(i, size, out_size), area_end(i, size, out_size)):
            area += area_weight(tap, i, size, out_size) * float32(source[tap])
        triangle = float32(0.0)
        total = float32(0.0)
        for tap in range(antialias_start(i, size, out_size), antialias_end(i, size, out_size)):
            weight = antialias_weight(tap, i, size, out_size)
            triangle += weight * float32(source[tap])
            total += weight
        start, nearest = area_start(i, size, out_size), float32(source[nearest_pixel(i, size, out_size)])
        after = linear_fraction(i, size, out_size)
        here, there = float32(source[start]), float32(source[min(start + 1, size - 1)])
        target[4 * p] = area
        target[4 * p + 1] = triangle / total
        target[4 * p + 2] = here + after * (there - here)
        target[4 * p + 3] = nearest if axis_filter(0, size, size, out_size, out_size) == 0 else area


def erase_kernel(source, target, height, width, code, corner):
    p = cuda.grid(1)
    if p < height * width:
        y, x = p // width, p % width
        gone = is_erased(code, y, x, corner, corner, corner + 8, corner + 8, width)
        target[p] = float32(0.0) if gone else float32(source[p])


def pointwise_kernel(source, target, size, out_size, sign, shift):
    p = cuda.grid(1)
    if p < out_size:
        source[p] = to_byte(target[p])


KERNELS = {resample: resample_kernel, erase: erase_kernel, pointwise: pointwise_kernel}


def ptx_of(kernel: Callable[..., None], capability: tuple[int, int], whole: str) -> str:
    from numba import types

    number = getattr(types, whole)
    values = (types.Array(types.uint8, 1, "C"), types.Array(types.float32, 1, "C"))
    signature = types.void(*values, number, number, number, number)
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


@pytest.mark.parametrize("chapter", KERNELS, ids=lambda chapter: chapter.__name__.rpartition(".")[2])
@pytest.mark.parametrize("whole", ["int32", "int64"])
def test_ptx_has_no_doubles_and_no_local_memory(chapter: ModuleType, whole: str) -> None:
    for capability in ((7, 5), (8, 0), (9, 0)):
        ptx = ptx_of(KERNELS[chapter], capability, whole)
        assert ".visible .entry" in ptx
        assert ".f64" not in ptx
        assert ".local" not in ptx


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
def test_machine_code_spills_nothing(capability: tuple[int, int], tmp_path: Path) -> None:
    ptxas = find_ptxas()
    for chapter, kernel in KERNELS.items():
        path = tmp_path / f"{kernel.__name__}.ptx"
        path.write_text(ptx_of(kernel, capability, "int64"))
        target = f"-arch=sm_{capability[0]}{capability[1]}"
        command = [ptxas, target, "-v", str(path), "-o", str(tmp_path / "kernel.cubin")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (chapter, done.stderr)
        assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr


def test_no_body_was_forgotten() -> None:
    """Everything that a chapter exports is used above, or by a body that is."""
    used = set(resample_kernel.__code__.co_names) | set(pointwise_kernel.__code__.co_names)
    used |= set(erase_kernel.__code__.co_names) | set(is_erased.py_func.__code__.co_names)
    for chapter in KERNELS:
        assert {name for name in chapter.__all__ if callable(getattr(chapter, name))} <= used

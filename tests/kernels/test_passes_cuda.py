"""The launches on finished images compile to PTX and machine code without doubles, local memory or spills.

No driver is needed: the compiler comes with the packages. The machine of `tests.ptx` runs them.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.pass_block import PassLayout
from ffcv_gpu.kernels.pass_codes import PASS_BLUR, PASS_PAD, PASS_SHARPEN
from tests.kernels.pass_launches import COLUMN, cases, compare
from tests.kernels.test_bodies_on_cuda import CAPABILITIES
from tests.kernels.test_cuda_code import check_machine_code
from tests.ptx.compiled import ptx_of
from tests.ptx.gpu import PtxGpu

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


def ptx_of_kernel(name: str, capability: tuple[int, int]) -> str:
    kernel = getattr(passes_cuda, name)
    types = [f"{ARRAYS[p]}*" if p in ARRAYS else "int32" for p in inspect.signature(kernel).parameters]
    return ptx_of(kernel, tuple(types), capability)


@pytest.mark.parametrize("name", KERNELS)
def test_ptx_has_no_doubles_and_no_local_memory(name: str) -> None:
    for capability in ((7, 5), (9, 0)):
        ptx = ptx_of_kernel(name, capability)
        assert ".visible .entry" in ptx
        assert ".f64" not in ptx
        assert ".local" not in ptx


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
def test_machine_code_spills_nothing_and_leaves_room_for_full_occupancy(
    capability: tuple[int, int], tmp_path: Path
) -> None:
    """Of PTX for 7.5, which every newer GPU takes, and for 9.0 of its own."""
    for name in KERNELS:
        ptx = ptx_of_kernel(name, capability if capability == (9, 0) else (7, 5))
        check_machine_code(ptx, capability, tmp_path)


def test_ptx_gives_what_the_cpu_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, stream = PtxGpu(monkeypatch), SimpleNamespace(handle=1)
    for name, case in cases().items():
        memory = gpu.array(case.memory)
        views = gpu.launches.views(memory)
        if isinstance(case.layout, BlockLayout):
            gpu.launches.measure(views, case.layout, 0, (COLUMN,), case.source, stream)
        else:
            places = case.source, case.target, case.scratch
            gpu.launches.transform(views, case.layout, 0, *places, stream)
        assert gpu.writes(memory).max() == 1
        compare(name, case, np.asarray(memory))


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

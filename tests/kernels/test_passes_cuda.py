"""The launches on finished images compile to PTX and machine code without doubles, local memory or spills.

No driver is needed: the compiler comes with the packages. What they compute is tried in numba's simulator.
"""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    COLUMN_WIDTH,
    TABLE_COLUMNS,
)
from ffcv_gpu.kernels.pass_block import PassLayout
from ffcv_gpu.kernels.pass_codes import (
    IN_PLACE,
    PASS_BLEND,
    PASS_BLUR,
    PASS_PAD,
    PASS_REMAP,
    PASS_SHARPEN,
    PASS_WARP,
)
from tests.fake_gpu import measure, transform
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
    for name in KERNELS:
        check_machine_code(ptx_of(name, capability), capability, tmp_path)


@dataclass
class Case:
    """A launch with all that it needs in one memory, at whose front the block lies."""

    layout: Any
    memory: npt.NDArray[np.uint8]
    source: int
    target: int
    scratch: int


def place(layout: Any, images: npt.NDArray[np.uint8], **parts: Any) -> Case:
    """Put a block, images, room for the result and for the rest into one memory."""
    source = -(-layout.size_bytes // 16) * 16
    in_place = isinstance(layout, PassLayout) and layout.kernel in IN_PLACE
    shape = layout.shape if isinstance(layout, PassLayout) else ()
    target = source if in_place else -(-(source + images.size) // 16) * 16
    scratch = -(-(target + layout.count * prod(shape)) // 16) * 16
    rest = layout.scratch_bytes if isinstance(layout, PassLayout) else 0
    memory = np.full(scratch + rest + 16, 0xA5, np.uint8)
    memory[source : source + images.size] = images.reshape(-1)
    block = memory[: layout.size_bytes]
    if isinstance(layout, PassLayout):
        layout.write(block, **parts)
    else:
        layout.read(block).params[:] = 0
    return Case(layout, memory, source, target, scratch)


def cases() -> dict[str, Case]:
    """Launches of each kind on three small images, one of them neutral everywhere."""
    rng = np.random.default_rng(0)
    images = rng.integers(30, 220, (3, 7, 9, 3), dtype=np.uint8)
    keep, fill = rng.random((7, 9, 3)), np.array([1, 2, 3], np.uint8)
    turn = (np.cos(0.4), np.sin(0.4), 0.5, -np.sin(0.4), np.cos(0.4), -1)
    given: dict[str, tuple[int, Any, list[Any]]] = {
        "sharpen": (PASS_SHARPEN, [0, -0.7, 1.3], []),
        "blur": (PASS_BLUR, [[0, 0, 1, 0, 0], [0.1, 0.2, 0.4, 0.2, 0.1], [0.2] * 5], []),
        "warp": (
            PASS_WARP,
            [(1, 0, 0, 0, 1, 0), turn, (1, 0.3, 0, 0, 1, 2)],
            [fill],
        ),
        "remap": (PASS_REMAP, [0, 1, 2], []),
        "blend": (PASS_BLEND, [0, 1, 1], [np.float32(keep), np.float32(1 - keep), np.float32([20, 200])]),
    }
    made = {}
    for name, (kernel, params, constants) in given.items():
        values = np.float32(params).reshape(3, -1)
        kinds = tuple((array.dtype.name, array.size) for array in constants)
        layout = PassLayout(3, kernel, (7, 9, 3), values.shape[1], kinds)
        made[name] = place(layout, images, table=None, params=values, constants=constants)
    made["pad"] = padding(images)
    made["mean"] = place(BlockLayout(3, 7, 9, 3, params=3), images)
    return made


def padding(images: npt.NDArray[np.uint8]) -> Case:
    layout = PassLayout(3, PASS_PAD, (9, 12, 3))
    table = np.zeros((3, TABLE_COLUMNS), np.int64)
    table[:, COLUMN_OFFSET0] = -(-layout.size_bytes // 16) * 16 + np.arange(3) * images[0].size
    table[:, COLUMN_PITCH0], table[:, COLUMN_HEIGHT] = 9 * 3, (7, 7, 4)
    table[:, COLUMN_WIDTH] = (9, 5, 9)
    return place(layout, images, table=table, params=np.zeros((3, 0), np.float32), constants=())


def on_cpu(case: Case) -> npt.NDArray[np.uint8]:
    """The memory after the CPU's launch."""
    memory = case.memory.copy()
    if isinstance(case.layout, BlockLayout):
        measure(memory, case.layout, 0, (1,), case.source)
    else:
        transform(memory, case.layout, 0, case.source, case.target)
    return memory[: case.scratch]


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
        expected, found = on_cpu(case), simulated[name][: case.scratch]
        assert not np.array_equal(expected, case.memory[: case.scratch]), name
        if isinstance(case.layout, BlockLayout):
            expected, found = (case.layout.read(memory).params for memory in (expected, found))
        apart = np.abs(found.astype(float) - expected)
        # a CPU rounds once where the simulator rounds a product and a sum
        assert apart.max() <= (1e-4 if name == "mean" else 1) and (apart > 0).mean() < 0.02, name


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

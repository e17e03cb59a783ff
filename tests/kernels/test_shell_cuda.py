"""The CUDA kernels: their machine code, and their results beside the CPU's on the same bytes."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS, RESAMPLE_AREA, RESAMPLE_NEAREST, RESAMPLE_NONE
from tests.kernels.launches import GREY, Launch, by_cpu, random_launch

pytest.importorskip("numba.cuda")

SHRINK: dict[str, Any] = {"size": (5, 6), "source": (12, 30)}
ENLARGE: dict[str, Any] = {"size": (9, 17), "source": (4, 8)}
ALL_CHROMA = [(0, 0), (0, 1), (1, 0), (1, 1), GREY, None, (0, 2), (2, 2)]

#: name: arguments of `random_launch`; small, because each thread of the simulator is one of Python's
CASES: dict[str, dict[str, Any]] = {
    "area, shrink": {"channels": 3, "resample": RESAMPLE_AREA, **SHRINK},
    "area, enlarge": {"channels": 3, "resample": RESAMPLE_AREA, **ENLARGE},
    "area, one of each": {"channels": 3, "resample": RESAMPLE_AREA, "size": (4, 20), "source": (9, 15)},
    "area, strips": {"channels": 3, "resample": RESAMPLE_AREA, "size": (35, 7), "source": (40, 60)},
    "area, colour": {"channels": 3, "resample": RESAMPLE_AREA, "coloured": True, **SHRINK},
    "area, grey": {"channels": 1, "resample": RESAMPLE_AREA, "coloured": True, **SHRINK},
    "area, four": {"channels": 4, "resample": RESAMPLE_AREA, **SHRINK},
    "area, 16 bits, planar": {
        "channels": 3, "resample": RESAMPLE_AREA, "dtype": "uint16", "planar": True, **SHRINK,
    },
    "area, 32 bits": {"channels": 3, "resample": RESAMPLE_AREA, "dtype": "uint32", **ENLARGE},
    "antialias, shrink": {"channels": 3, "resample": RESAMPLE_ANTIALIAS, **SHRINK},
    "antialias, enlarge": {"channels": 3, "resample": RESAMPLE_ANTIALIAS, **ENLARGE},
    "antialias, grey": {"channels": 1, "resample": RESAMPLE_ANTIALIAS, **SHRINK},
    "nearest": {"channels": 3, "resample": RESAMPLE_NEAREST, **SHRINK},
    "none": {"channels": 3, "resample": RESAMPLE_NONE},
    "planes, shrink": {"channels": 3, "resample": RESAMPLE_AREA, "shifts": ALL_CHROMA, "count": 8, **SHRINK},
    "planes, enlarge": {
        "channels": 3, "resample": RESAMPLE_AREA, "shifts": ALL_CHROMA, "count": 8, **ENLARGE,
    },
    "planes, antialias": {
        "channels": 3, "resample": RESAMPLE_ANTIALIAS, "shifts": ALL_CHROMA, "count": 8, **SHRINK,
    },
    "planes, antialias, enlarge": {
        "channels": 3, "resample": RESAMPLE_ANTIALIAS, "shifts": ALL_CHROMA, "count": 8, **ENLARGE,
    },
    "planes, nearest": {
        "channels": 3, "resample": RESAMPLE_NEAREST, "shifts": ALL_CHROMA, "count": 8, **SHRINK,
    },
    "planes, none, colour": {
        "channels": 3, "resample": RESAMPLE_NONE, "shifts": [(1, 1)], "coloured": True,
    },
    "planes, grey output": {"channels": 1, "resample": RESAMPLE_AREA, "shifts": [(1, 1), GREY], **SHRINK},
}  # fmt: skip

#: full size, for a GPU
FULL: dict[str, Any] = {"size": (224, 224), "source": (150, 520), "count": 24}


def compare(name: str, launch: Launch, got: npt.NDArray[Any]) -> None:
    """Levels may be one off where a sum lies between two; where pixels are only copied they may not."""
    expected = by_cpu(launch)
    assert got.dtype == expected.dtype
    apart = np.abs(got.astype(np.int64) - expected)
    if CASES[name].get("coloured"):
        assert (apart > 1).mean() <= 0.01  # a level that is one off may be solarized, and its hue turn
        return
    copied = launch.layout.resample in (RESAMPLE_NONE, RESAMPLE_NEAREST) and "planes" not in name
    assert apart.max() <= (0 if copied else 1)
    assert (apart > 0).mean() <= 0.03


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Any]:
    """Each case's launch, and what the kernels make of it in the simulator."""
    folder = tmp_path_factory.mktemp("simulator")
    launches = {name: random_launch(**arguments) for name, arguments in CASES.items()}
    packed = {n: (each.layout, each.buffer, each.dtype, each.size) for n, each in launches.items()}
    (folder / "in").write_bytes(pickle.dumps(packed))
    script = root / "tests" / "kernels" / "simulate.py"
    command = [sys.executable, str(script), str(folder / "in"), str(folder / "out")]
    subprocess.run(command, check=True, timeout=240)
    found = pickle.loads((folder / "out").read_bytes())
    return {name: (launches.get(name), result) for name, result in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_simulated_kernels_are_the_cpu_shell(simulated: dict[str, Any], name: str) -> None:
    compare(name, *simulated[name])


def test_sentinels(simulated: dict[str, Any]) -> None:
    stamped, starts, marks, same = simulated["sentinels"][1]
    expected = np.zeros_like(stamped)
    for start, mark in zip(starts, marks, strict=True):
        expected[start : start + 8] = mark
    assert np.array_equal(stamped, expected)
    assert same.tolist() == [1, 0, 0, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_kernels_on_a_gpu_are_the_cpu_shell(name: str) -> None:
    from numba import cuda

    from ffcv_gpu.kernels import shell_cuda

    small = CASES[name]
    for size in ((224, 224), (97, 300), small.get("size", (9, 13))):
        launch = random_launch(**(small | FULL | {"size": size}))
        stream = cuda.stream()
        out = cuda.to_device(np.zeros(launch.size, launch.dtype))
        buffer = shell_cuda.views(cuda.to_device(launch.buffer))
        shell_cuda.compose(buffer, out, launch.layout, 0, stream=int(stream.handle))
        stream.synchronize()
        compare(name, launch, out.copy_to_host())


def test_a_launch_that_cannot_be_is_refused() -> None:
    from ffcv_gpu.kernels import shell_cuda
    from ffcv_gpu.kernels.block import BlockLayout

    with pytest.raises(ValueError, match="1, 3 and 4"):
        shell_cuda.launches(BlockLayout(1, 8, 8, 2), 1)
    buffer, layout = shell_cuda.Views(None, None, None, None, 0), BlockLayout(1, 8, 8, 3)
    with pytest.raises(ValueError, match="no multiple of 16"):
        shell_cuda.compose(buffer, None, layout, 8)
    for typestr, strides in (("<f8", None), ("<f4", (8,))):
        place = {"typestr": typestr, "strides": strides, "data": (0, False)}
        with pytest.raises(ValueError, match="must be contiguous, with 1, 2 or 4 bytes"):
            shell_cuda.compose(buffer, SimpleNamespace(__cuda_array_interface__=place), layout, 0)


@pytest.mark.parametrize(
    ("width", "threads", "parts"), [(1, 32, 1), (224, 224, 1), (256, 256, 1), (300, 160, 2), (1000, 256, 4)]
)
def test_grids_cover_the_output(width: int, threads: int, parts: int) -> None:
    from ffcv_gpu.kernels import shell_cuda
    from ffcv_gpu.kernels.block import BlockLayout

    grid, block = shell_cuda.grids(BlockLayout(7, 33, width, 3), 16)
    assert (grid, block) == ((7, 3, parts), threads)
    assert block * parts >= width


def test_small_grids_are_allowed_for_our_kernels_alone() -> None:
    """By numba's switch, which is as it was afterwards; the filters of `warnings` are left alone."""
    from numba.cuda.core import config

    from ffcv_gpu.kernels import shell_cuda

    class Function:
        def __getitem__(self, launch: tuple[object, ...]) -> tuple[object, ...]:
            return (config.CUDA_LOW_OCCUPANCY_WARNINGS, *launch)

    before, filters = config.CUDA_LOW_OCCUPANCY_WARNINGS, list(warnings.filters)
    assert shell_cuda.configured(Function(), (1, 2, 3), 32, 0) == (0, (1, 2, 3), 32, 0)
    assert before == config.CUDA_LOW_OCCUPANCY_WARNINGS and before
    assert warnings.filters == filters

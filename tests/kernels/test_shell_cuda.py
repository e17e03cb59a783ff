"""The CUDA kernels beside the CPU's on the same bytes: as PTX on the machine of `tests.ptx`, and on a GPU."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS, RESAMPLE_AREA, RESAMPLE_NEAREST, RESAMPLE_NONE
from tests.kernels.launches import GREY, Launch, by_cpu, random_launch
from tests.kernels.test_bodies_on_cuda import CAPABILITIES
from tests.ptx.gpu import PtxGpu

pytest.importorskip("numba.cuda")

SHRINK: dict[str, Any] = {"size": (5, 6), "source": (12, 30)}
ENLARGE: dict[str, Any] = {"size": (9, 17), "source": (4, 8)}
ALL_CHROMA = [(0, 0), (0, 1), (1, 0), (1, 1), GREY, None, (0, 2), (2, 2)]

STREAM: Any = SimpleNamespace(handle=1)

#: name: arguments of `random_launch`
CASES: dict[str, dict[str, Any]] = {
    "area, shrink": {"channels": 3, "resample": RESAMPLE_AREA, **SHRINK},
    "area, enlarge": {"channels": 3, "resample": RESAMPLE_AREA, **ENLARGE},
    "area, one of each": {"channels": 3, "resample": RESAMPLE_AREA, "size": (4, 20), "source": (9, 15)},
    "area, strips": {"channels": 3, "resample": RESAMPLE_AREA, "size": (35, 7), "source": (40, 60)},
    "area, colour": {"channels": 3, "resample": RESAMPLE_AREA, "coloured": True, **SHRINK},
    "area, grey": {"channels": 1, "resample": RESAMPLE_AREA, "coloured": True, **SHRINK},
    "area, four": {"channels": 4, "resample": RESAMPLE_AREA, **SHRINK},
    "area, planar": {"channels": 3, "resample": RESAMPLE_AREA, "planar": True, **SHRINK},
    "area, 8 bits": {"channels": 3, "resample": RESAMPLE_AREA, "dtype": "uint8", **SHRINK},
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


def run(gpu: PtxGpu, launch: Launch) -> npt.NDArray[Any]:
    """Launch on the machine; each byte of the output is written, and once."""
    buffer, out = gpu.array(launch.buffer), gpu.array(np.zeros(launch.size, launch.dtype))
    gpu.launches.compose(gpu.launches.views(buffer), launch.layout, 0, out, STREAM)
    assert (gpu.writes(out) == 1).all()
    assert not gpu.writes(buffer).any()
    return np.asarray(out)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PtxGpu:
    return PtxGpu(monkeypatch)


#: those of which there are nearer or faster ones: in the long tests
LONG = {"area, four", "area, 32 bits", "antialias, grey", "planes, shrink", "planes, antialias"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in LONG)) for n in CASES])
def test_ptx_is_the_cpu_shell(gpu: PtxGpu, name: str) -> None:
    launch = random_launch(**CASES[name])
    compare(name, launch, run(gpu, launch))


@pytest.mark.parametrize("size", [(224, 224), (97, 300)])
def test_ptx_of_whole_photographs_is_the_cpu_shell(gpu: PtxGpu, size: tuple[int, int]) -> None:
    launch = random_launch(3, RESAMPLE_AREA, size=size, source=(150, 520))
    compare("area, shrink", launch, run(gpu, launch))


@pytest.mark.long
@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("name", CASES)
def test_ptx_of_each_capability_is_the_cpu_shell(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int]
) -> None:
    gpu = PtxGpu(monkeypatch, capability)
    for arguments in ({}, {"size": (61, 97), "source": (50, 140)}):
        launch = random_launch(**(CASES[name] | arguments))
        compare(name, launch, run(gpu, launch))


def test_sentinels(gpu: PtxGpu) -> None:
    """Stamp, spoil two marks, compare."""
    memory = gpu.array(np.zeros(100, np.uint8))
    starts = np.array([3, 40, 60, 92])
    marks = np.random.default_rng(0).integers(1, 256, (4, 8), dtype=np.uint8)
    answers = np.full(8, 7, np.uint8)  # four, and four bytes that are not ours
    held = gpu.array(np.concatenate([starts.view(np.uint8), marks.reshape(-1), answers]))
    views, packed = gpu.launches.views(memory), gpu.launches.views(held)
    gpu.launches.stamp(views, packed, 4, 8, STREAM)
    expected = np.zeros_like(memory)
    for start, mark in zip(starts, marks, strict=True):
        expected[start : start + 8] = mark
    assert np.array_equal(memory, expected)
    memory[47] ^= 1
    memory[60] ^= 128
    gpu.launches.compare(views, packed, 4, 8, STREAM)
    assert held[64:].tolist() == [1, 0, 0, 1, 7, 7, 7, 7]


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
    with pytest.raises(ValueError, match="not a multiple of 16"):
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

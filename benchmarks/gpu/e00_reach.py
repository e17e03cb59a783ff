"""E0: which decoders are available on this machine, in which libraries, with how many engines."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.bench import Bench, Row, check, fact
from benchmarks.gpu.decoders import BACKENDS, INTERPOLATE, Handle, Refusal, status_name
from ffcv_gpu.native import driver, nvjpeg
from ffcv_gpu.native.nvjpeg_library import NvjpegLibrary

__all__ = ["other_libraries", "run"]

#: backends that every GPU must have
SOFTWARE = ("default", "hybrid", "gpu_hybrid")


def run(bench: Bench) -> Iterator[Row]:
    """Load the libraries and make a handle of every backend; part "others": with other copies of nvJPEG."""
    if bench.part:
        yield from _others(bench)
        return
    for name in ("libcuda.so.1", "libnvcuvid.so.1"):
        yield fact(f"{name} can be loaded", answer=_loads(name))
    yield fact("CUDA of the driver", version=driver.driver_version())
    where = _compiler()
    yield check("libnvvm, which compiles kernels, is found", bool(where), must=False, where=where)
    chosen = bench.gpu.library()
    yield fact("nvJPEG in use", version=list(chosen.version), origin=chosen.origin)
    before = bench.gpu.free_bytes()
    statuses: dict[str, str] = {}
    for flags in (0, INTERPOLATE):
        for name in BACKENDS:
            status, engines, cores = _make(chosen, name, flags)
            statuses[name] = status
            yield fact(f"handle {name}, flags {flags}", status=status, engines=engines, cores=cores)
            if name in SOFTWARE:
                yield check(f"a {name} handle can be made, flags {flags}", status == status_name(0))
    yield fact("GPU memory that the handles took", bytes=before - bench.gpu.free_bytes())
    hint = "" if statuses["hardware"] == status_name(0) else "no engine, or libnvcuvid.so.1 is not reachable"
    yield check("a hardware engine can be used", not hint, must=False, hint=hint)


def _others(bench: Bench) -> Iterator[Row]:
    """Try other copies of nvJPEG, in a separate process: old ones may crash."""
    for where, library in other_libraries(bench.gpu.library()):
        found = {name: _make(library, name, INTERPOLATE)[0] for name in ("gpu_hybrid", "hardware")}
        yield fact(f"another copy: {where}", version=list(library.version), **found)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _compiler() -> str:
    """Return how numba-cuda finds libnvvm, or "" (CUDA_HOME may name a toolkit that contains it)."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return str(load_nvidia_dynamic_lib("nvvm").found_via or "some way")
    except (ImportError, RuntimeError, OSError):
        return ""


def _make(library: NvjpegLibrary, backend: str, flags: int) -> tuple[str, int, int]:
    try:
        handle = Handle(library, backend, flags)
    except Refusal as refusal:
        return status_name(refusal.status), 0, 0
    return status_name(0), *(handle.engines() if backend.startswith("hardware") else (0, 0))


def other_libraries(chosen: NvjpegLibrary) -> Iterator[tuple[str, NvjpegLibrary]]:
    """Yield other complete copies of nvJPEG among the installed packages."""
    patterns = ("nvidia/cu13/lib", "nvidia/nvjpeg/lib", "torchvision.libs")
    for folder in dict.fromkeys(Path(entry) for entry in sys.path if entry):
        for path in (p for part in patterns for p in sorted((folder / part).glob("libnvjpeg*.so*"))):
            if str(path) == chosen.path:
                continue
            try:
                functions = nvjpeg.bind(ctypes.CDLL(str(path)))
            except (OSError, AttributeError):
                continue
            where = str(path.relative_to(folder))
            yield where, NvjpegLibrary(functions, str(path), where, nvjpeg.version(functions))

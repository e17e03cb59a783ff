"""Finds and opens nvJPEG: one that the driver's CUDA version can run and that is new enough.

``FFCV_GPU_NVJPEG`` names a file (or is ``off``: do not use nvJPEG). Without it, the search order is: pip's
wheels, a conda environment, the system's loader, cuda.pathfinder, and finally torchvision's own copy.
cuda.pathfinder does not come first because it ignores the driver: with both wheels installed it always
returns CUDA 13's, which a CUDA 12 driver cannot run.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.native import driver, nvjpeg

__all__ = ["REQUIRED", "NvjpegLibrary", "library"]

_log = logging.getLogger(__name__)

#: CUDA major -> oldest version that is accepted. Older ones crash or hang on malformed streams.
REQUIRED = {13: (13, 2, 3), 12: (12, 4, 0)}
_INSTALL = {13: "pip install 'nvidia-nvjpeg>=13.2.3'", 12: "pip install 'nvidia-nvjpeg-cu12>=12.4.0.76'"}
_WHEEL = {13: "nvidia/cu13/lib/libnvjpeg.so.13", 12: "nvidia/nvjpeg/lib/libnvjpeg.so.12"}

_TORCHVISION = "torchvision's copy"


@dataclass(frozen=True)
class NvjpegLibrary:
    """An opened nvJPEG; never closed.

    Parameters
    ----------
    functions : ctypes.CDLL
        The library, with all of `nvjpeg.PROTOTYPES` set.
    path : str
        Its file, or the name that the system's loader resolved.
    origin : str
        Where it was found, in words.
    version : tuple
        For example (13, 2, 3).
    """

    functions: ctypes.CDLL
    path: str
    origin: str
    version: tuple[int, int, int]


@functools.cache
def library() -> NvjpegLibrary:
    """Return nvJPEG for this machine's driver; the search runs once per process, or again after a failure.

    Does not initialise CUDA.

    Raises
    ------
    BackendUnavailable
        Without a driver for CUDA 12 or newer, or without a library that is new enough; says where the search
        looked, and what to install.
    """
    named = os.environ.get("FFCV_GPU_NVJPEG", "")
    if named.lower() == "off":
        raise BackendUnavailable("nvJPEG is switched off by FFCV_GPU_NVJPEG=off")
    if named:
        opened = _open("FFCV_GPU_NVJPEG", named)
        if isinstance(opened, str):
            raise BackendUnavailable(f"FFCV_GPU_NVJPEG: {opened}. Name another file, or unset it")
        return opened
    return _find(_majors())


def _majors() -> list[int]:
    """Return the CUDA major versions that the driver can run, best first."""
    version = driver.driver_version()
    majors = [major for major in REQUIRED if major * 1000 <= version]
    if not majors:
        found = (
            f"this driver's is {version // 1000}.{version % 1000 // 10}" if version else "there is no driver"
        )
        raise BackendUnavailable(
            f"nvJPEG needs a driver (libcuda.so.1) for CUDA 12 or newer, but {found}; install a newer driver"
        )
    # If the driver can run several, prefer torch's, so that the process loads one family of libraries.
    return sorted(majors, key=lambda major: (major == _torch_major(), major), reverse=True)


def _torch_major() -> int:
    """Return the CUDA major version of torch if it is already imported, else 0."""
    version = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    return int(version.split(".")[0]) if version else 0


def _find(majors: list[int]) -> NvjpegLibrary:
    refused: dict[str, str] = {}
    for origin, name in _candidates(majors):
        if name in refused:
            continue
        opened = _open(origin, name)
        if isinstance(opened, str):
            refused[name] = opened
        elif opened.version[0] not in majors:
            refused[name] = f"{name} is for CUDA {opened.version[0]}, which the driver cannot run"
        else:
            if origin == _TORCHVISION:
                _log.warning(
                    "nvJPEG: using torchvision's private copy %s (%s.%s.%s), because no other was found. %s",
                    name,
                    *opened.version,
                    _INSTALL[majors[0]],
                )
            return opened
    raise BackendUnavailable(_not_found(majors, refused))


def _candidates(majors: list[int]) -> Iterator[tuple[str, str]]:
    """Yield (origin, path or name) in the search order; paths exist."""
    folders = [Path(entry) for entry in dict.fromkeys(sys.path) if entry]
    conda = [Path(prefix, "lib") for prefix in _conda_prefixes()]
    for major in majors:
        yield from (("pip wheel", str(f / _WHEEL[major])) for f in folders if (f / _WHEEL[major]).is_file())
    for major in majors:
        name = f"libnvjpeg.so.{major}"
        yield from (("conda environment", str(f / name)) for f in conda if (f / name).is_file())
    for major in majors:
        yield "system", f"libnvjpeg.so.{major}"
    pathfinder = _from_pathfinder()
    if pathfinder:
        yield "cuda.pathfinder", pathfinder
    for major in majors:
        for folder in folders:
            copies = sorted((folder / "torchvision.libs").glob(f"libnvjpeg*.so.{major}*"))
            yield from ((_TORCHVISION, str(copy)) for copy in copies)


def _conda_prefixes() -> list[str]:
    return list(dict.fromkeys(filter(None, (os.environ.get("CONDA_PREFIX"), sys.prefix))))


def _from_pathfinder() -> str | None:
    """Return the path of the library that cuda.pathfinder finds (also by CUDA_PATH), or None."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
    except ImportError:
        return None
    try:
        path: str | None = pathfinder.load_nvidia_dynamic_lib("nvjpeg").abs_path
    except (RuntimeError, OSError):  # its own errors are RuntimeErrors
        return None
    return path


def _open(origin: str, name: str) -> NvjpegLibrary | str:
    """Open one library; if it cannot be used, return the reason."""
    try:
        # RTLD_LOCAL, ctypes' default: no other library needs its symbols.
        opened = ctypes.CDLL(name)
        version = nvjpeg.version(nvjpeg.bind(opened, ["nvjpegGetProperty"]))
        required = REQUIRED.get(version[0], max(REQUIRED.values()))
        if version < required:
            return (
                f"{name} is version {_dotted(version)}, older than {_dotted(required)}: such builds crash or "
                f"hang on malformed JPEGs. {_INSTALL.get(version[0], _INSTALL[13])}"
            )
        return NvjpegLibrary(nvjpeg.bind(opened), name, origin, version)
    except OSError as error:
        return f"{name} cannot be loaded: {error}"
    except AttributeError as error:
        return f"{name} is not nvJPEG: {error}"


def _not_found(majors: list[int], refused: dict[str, str]) -> str:
    libraries = " or ".join(f"libnvjpeg.so.{major}" for major in majors)
    wheels = " or ".join(_WHEEL[major] for major in majors)
    sites = [entry for entry in dict.fromkeys(sys.path) if entry.endswith("-packages")]
    lines = [
        f"nvJPEG not found. Looked for {libraries} (the driver runs CUDA "
        f"{' and '.join(map(str, majors))}) in this order:",
        "  the file named by FFCV_GPU_NVJPEG, which is not set",
        f"  pip wheels: {wheels} in {', '.join(sites)} and the rest of sys.path",
        f"  conda: {', '.join(str(Path(prefix, 'lib')) for prefix in _conda_prefixes())}",
        "  the system's loader (ldconfig, LD_LIBRARY_PATH), cuda.pathfinder, torchvision.libs",
        *(f"  not usable: {reason}" for reason in refused.values()),
        f'What to do: {_INSTALL[majors[0]]}, or jpeg_backend="turbo" to decode on the CPU',
    ]
    return "\n".join(lines)


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))

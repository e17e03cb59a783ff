"""What is installed here and what works, as plain dicts: shown by ``doctor``."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import Any, Final

from ffcv_gpu.cpus import cpu_quota

__all__ = ["gpus", "libraries", "machine", "problems", "versions"]

#: distributions whose versions a bug report needs; optional ones are listed if installed
PACKAGES: Final = (
    "numpy", "numba", "opencv-python-headless", "opencv-python", "simplejpeg", "google-crc32c", "typer",
    "rich", "torch", "torchvision", "numba-cuda", "cuda-pathfinder", "nvidia-nvjpeg", "nvidia-nvjpeg-cu12",
    "cupy", "cupy-cuda12x", "cupy-cuda13x", "pillow",
)  # fmt: skip
#: modules that the CPU path imports, and the distribution that provides each
NEEDED: Final = {
    "numpy": "numpy",
    "numba": "numba",
    "cv2": "opencv-python-headless",
    "simplejpeg": "simplejpeg",
    "google_crc32c": "google-crc32c",
}


def versions() -> dict[str, str | None]:
    """Return the versions of Python, this package and its dependencies; None: required but missing."""
    from ffcv_gpu import __version__

    found: dict[str, str | None] = {"ffcv_gpu": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        version = _installed(name)
        if version is not None or name in NEEDED.values():
            found[name] = version
    return found


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Return facts about the system, its CPUs and its memory."""
    from ffcv_gpu.device.host_memory import available_bytes

    return {
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "cpus_for_this_process": len(os.sched_getaffinity(0)),
        "cpus_by_cgroup": cpu_quota(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "memory_available_bytes": available_bytes(),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    model = re.search(r"model name\s*: (.*)", text)
    return model.group(1) if model else platform.machine()


def libraries() -> dict[str, str | None]:
    """Return a version or path for each native library; None if not found."""
    from ffcv_gpu.native import turbojpeg, turbojpeg3
    from ffcv_gpu.native.driver import driver_version

    driver, turbo, turbo3 = driver_version(), turbojpeg.library(), turbojpeg3.library()
    whole = "libturbojpeg (many threads at once, lossless rewrites)"
    return {
        "libjpeg-turbo in simplejpeg": _bundled_turbo(),
        whole: None if turbo is None else str(turbo._name),
        "libturbojpeg 3 (decodes only the crop)": None if turbo3 is None else str(turbo3._name),
        "CUDA driver": f"CUDA {driver // 1000}.{driver % 1000 // 10}" if driver else None,
        "nvJPEG": _nvjpeg(),
    }


def _bundled_turbo() -> str | None:
    """Return the version string in libjpeg-turbo's binary; simplejpeg does not expose it."""
    package = importlib.util.find_spec("simplejpeg")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for library in Path(folder).glob("_jpeg*.so"):
            version = re.search(rb"libjpeg-turbo version ([\d.]+)", library.read_bytes())
            if version:
                return version.group(1).decode()
    return None


def _nvjpeg() -> str | None:
    """Return the library in use; without a usable one, for instance without a driver, what is installed."""
    from ffcv_gpu.errors import BackendUnavailable
    from ffcv_gpu.native import nvjpeg_library

    try:
        used = nvjpeg_library.library()
    except BackendUnavailable:
        return _installed_nvjpeg()
    return f"{'.'.join(map(str, used.version))}, {used.path} ({used.origin})"


def _installed_nvjpeg() -> str | None:
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
    except ImportError:
        return None
    try:
        return str(pathfinder.load_nvidia_dynamic_lib("nvjpeg").abs_path)
    except (pathfinder.DynamicLibNotFoundError, RuntimeError, OSError):
        return None


def gpus() -> tuple[list[dict[str, Any]], str | None]:
    """Return the GPUs that torch (or else CuPy) sees, and why they cannot be used: None if they can."""
    from ffcv_gpu.device import require_device
    from ffcv_gpu.errors import BackendUnavailable
    from ffcv_gpu.native import nvjpeg_library

    found: list[dict[str, Any]] = []
    try:
        require_device("cuda:0")
        found = _seen_by_torch() if importlib.util.find_spec("torch") else _seen_by_cupy()
        nvjpeg_library.library()
    except BackendUnavailable as error:
        return found, str(error)
    return found, None


def _seen_by_torch() -> list[dict[str, Any]]:
    import torch

    seen = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {"name": p.name, "capability": f"{p.major}.{p.minor}", "memory_bytes": p.total_memory} for p in seen
    ]


def _seen_by_cupy() -> list[dict[str, Any]]:
    from cupy.cuda import runtime

    seen = [runtime.getDeviceProperties(index) for index in range(runtime.getDeviceCount())]
    return [
        {"name": p["name"].decode(), "capability": f"{p['major']}.{p['minor']}",
         "memory_bytes": p["totalGlobalMem"]}
        for p in seen
    ]  # fmt: skip


def problems() -> list[str]:
    """Return sentences on what breaks or slows the CPU path, each with its fix."""
    found = []
    for module, distribution in NEEDED.items():
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            found.append(f"{module} cannot be imported ({error}): pip install {distribution}")
    if not found:
        found += _slow_checksums()
    return found


def _slow_checksums() -> list[str]:
    import google_crc32c

    if google_crc32c.implementation == "c":
        return []
    cure = "pip install --force-reinstall google-crc32c"
    return [f"google-crc32c runs in pure Python, about a thousand times slower: {cure}"]

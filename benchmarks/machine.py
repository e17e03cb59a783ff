"""Where a result was measured: processor, cores, versions, commit, date."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["commit", "machine_facts", "now"]

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("ffcv-gpu", "numpy", "numba", "simplejpeg", "opencv-python-headless", "torch", "pillow")


def machine_facts() -> dict[str, Any]:
    """Describe the machine as this process sees it, without host names or paths."""
    return {
        "cpu": cpu_model(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "cores_machine": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": {name: found for name in PACKAGES if (found := installed(name))},
    }


def cpu_model() -> str:
    """Return the processor's name, family and model (virtual machines often hide the name)."""
    wanted = ("model name", "cpu family", "model")
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name, family, model = (found.get(key, "unknown") for key in wanted)
    return f"{name} (family {family}, model {model})"


def installed(name: str) -> str:
    """Return the version of an installed package, or ""."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


#: uncommitted results do not change what is measured
RESULTS = ":(exclude)benchmarks/results"


def commit() -> str:
    """Return FFCV_GPU_COMMIT, else git's HEAD, else "unknown".

    HEAD has "+changes" behind it if anything but results is not committed. It would say nothing of an
    ffcv_gpu that is not installed in place (``pip install .``) and may be older: then it is "unknown", too.
    """
    given = os.environ.get("FFCV_GPU_COMMIT")
    if given:
        return given
    package = find_spec("ffcv_gpu")
    if package is None or Path(str(package.origin)).resolve().parent != ROOT / "ffcv_gpu":
        return "unknown"
    try:
        head = git("rev-parse", "HEAD")
        return head + ("+changes" if git("status", "--porcelain", "--", ".", RESULTS) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*arguments: str) -> str:
    """Return the output of git in the repository."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

"""The benchmarks are not installed: their tests import them from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.native import turbojpeg, turbojpeg3
from ffcv_gpu.writer import DatasetWriter

ROOT = Path(__file__).resolve().parents[2]
# At the end, unlike `python -m`: nothing of the repository's folders shadows an installed package.
sys.path.append(str(ROOT))


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Undo what benchmarks put into the environment: a libturbojpeg, which other tests would use, and a
    backend of matplotlib, with which a notebook shows no pictures."""
    names = ("FFCV_GPU_TURBOJPEG", "MPLBACKEND")
    before = {name: os.environ.get(name) for name in names}
    yield
    changed = [name for name in names if os.environ.get(name) != before[name]]
    for name in changed:
        os.environ.pop(name, None)
        if (value := before[name]) is not None:
            os.environ[name] = value
    if "FFCV_GPU_TURBOJPEG" in changed:
        for module in (turbojpeg, turbojpeg3):
            module.library.cache_clear()


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``suite(*arguments)``: runs ``python -m benchmarks`` without FFCV."""
    hidden = {key: value for key, value in os.environ.items() if not key.startswith("FFCV_GPU_FFCV")}
    environment = hidden | {
        "FFCV_GPU_FFCV_PYTHON": str(tmp_path / "no-such-python"),
        "FFCV_GPU_COMMIT": "c0ffee",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)

    return run


@pytest.fixture
def eight_jpegs(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    """A file of eight small JPEGs, numbered."""
    jpegs = [(bytes(make_jpeg(60, 80, seed=n)), n) for n in range(8)]
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    writer = DatasetWriter(tmp_path / "jpeg.beton", fields, num_workers=1, progress=False)
    writer.from_indexed_dataset(jpegs)
    return tmp_path / "jpeg.beton"

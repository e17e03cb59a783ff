"""The driver's version and devices: with a stand-in for libcuda and, where there is one, the real one."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ffcv_gpu.native import driver


class FakeFunction:
    """Looks like a ctypes function that writes one int; without argtypes the call is refused."""

    def __init__(self, status: int, value: int | None = None) -> None:
        self.status, self.value = status, value
        self.argtypes: list[Any] | None = None
        self.restype: Any = None

    def __call__(self, argument: Any) -> int:
        assert self.argtypes is not None
        assert self.restype is ctypes.c_int
        if self.value is not None:
            argument._obj.value = self.value
        return self.status


class FakeLibrary:
    def __init__(self, version: int, init: int, count: int) -> None:
        self.cuDriverGetVersion = FakeFunction(0, version)
        self.cuInit = FakeFunction(init)
        self.cuDeviceGetCount = FakeFunction(0, count)


@pytest.mark.parametrize(
    ("version", "extra"),
    [(11080, ""), (12000, "cuda12"), (12090, "cuda12"), (13000, "cuda13"), (14010, "cuda13")],
)
def test_the_extra_follows_the_driver(version: int, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeLibrary(version, init=0, count=2))
    assert driver.driver_version() == version
    assert driver.device_count() == 2
    assert driver.install_extra() == extra


def test_a_driver_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # 100 is CUDA_ERROR_NO_DEVICE; the count is then not to be believed.
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeLibrary(13000, init=100, count=7))
    assert driver.driver_version() == 13000
    assert driver.device_count() == 0


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert (driver.driver_version(), driver.device_count(), driver.install_extra()) == (0, 0, "")


@pytest.mark.parametrize(
    ("there", "lacks"), [(("cuda", "nvcuvid"), False), (("cuda",), True), ((), False)], ids=str
)
def test_a_driver_may_lack_the_way_to_the_engines(
    there: tuple[str, ...], lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Any:
        if name not in [f"lib{found}.so.1" for found in there]:
            raise OSError(f"{name}: cannot open shared object file")
        return FakeLibrary(13000, init=0, count=1)

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert driver.lacks_video() is lacks


def test_the_makefile_can_run_it_before_anything_is_installed(root: Path) -> None:
    # -I: no site-packages of the user, no working directory on the path; -S: no installed package at all.
    script = root / "ffcv_gpu" / "native" / "driver.py"
    done = subprocess.run([sys.executable, "-I", "-S", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == driver.install_extra()
    assert "native/driver.py" in (root / "Makefile").read_text(encoding="utf-8")


@pytest.mark.gpu
def test_the_real_driver_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    assert driver.device_count() == torch.cuda.device_count()
    # torch.version.cuda is what torch was built for; the driver must support at least that major.
    assert driver.driver_version() // 1000 >= int(torch.version.cuda.split(".")[0])

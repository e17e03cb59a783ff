"""Which nvJPEG is opened, and why not: in fake folder trees, then among the real libraries.

A "library" of a fake tree is a text file with its version in it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.native import driver, nvjpeg, nvjpeg_library

WHEEL13 = "nvidia/cu13/lib/libnvjpeg.so.13"
WHEEL12 = "nvidia/nvjpeg/lib/libnvjpeg.so.12"
TORCHVISION = "torchvision.libs/libnvjpeg.36e11081.so.13"


class Opened:
    """A library of the version that its file says, with every function, or without any ("junk")."""

    def __init__(self, text: str) -> None:
        if text == "junk":
            return
        parts = [int(part) for part in text.split(".")]
        for name in nvjpeg.PROTOTYPES:
            setattr(self, name, SimpleNamespace())

        class Property(SimpleNamespace):
            def __call__(self, which: int, value: Any) -> int:
                assert self.argtypes == nvjpeg.PROTOTYPES["nvjpegGetProperty"]
                value._obj.value = parts[which]
                return 0

        self.nvjpegGetProperty = Property()
        if parts < [12, 3]:
            del self.nvjpegBufferPinnedResize  # as in the real 12.0


class Machine:
    """Folders, and what the system's loader and cuda.pathfinder know."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.other, self.conda = folder / "site-packages", folder / "user", folder / "conda"
        self.system: dict[str, str] = {}
        self.pathfinder: str | None = None
        self.driver = 13000
        monkeypatch.setattr(ctypes, "CDLL", self.open)
        monkeypatch.setattr(sys, "path", [str(folder), str(self.site), str(self.other), str(folder / "gone")])
        monkeypatch.setattr(sys, "prefix", str(folder / "venv"))
        monkeypatch.setattr(driver, "driver_version", lambda: self.driver)
        monkeypatch.setattr(nvjpeg_library, "_from_pathfinder", lambda: self.pathfinder)
        monkeypatch.setenv("CONDA_PREFIX", str(self.conda))
        monkeypatch.delenv("FFCV_GPU_NVJPEG", raising=False)
        monkeypatch.delitem(sys.modules, "torch", raising=False)

    def open(self, name: str) -> Opened:
        if name in self.system:
            return Opened(self.system[name])
        try:
            return Opened(Path(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise OSError(f"{name}: cannot open shared object file") from None

    def put(self, folder: Path, name: str, version: str) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(version, encoding="utf-8")
        return str(path)

    def take_away(self, name: str) -> None:
        self.system.pop(name, None)
        Path(name).unlink(missing_ok=True)
        self.pathfinder = None if self.pathfinder == name else self.pathfinder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    nvjpeg_library.library.cache_clear()
    yield Machine(tmp_path, monkeypatch)
    nvjpeg_library.library.cache_clear()


def found() -> tuple[str, str, tuple[int, int, int]]:
    library = nvjpeg_library.library()
    assert all(getattr(library.functions, name).argtypes for name in nvjpeg.PROTOTYPES)
    return library.origin, library.path, library.version


def test_the_order_of_places(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    places = [
        ("FFCV_GPU_NVJPEG", machine.put(machine.other, "mine.so", "13.4.0")),
        ("pip wheel", machine.put(machine.site, WHEEL13, "13.2.3")),
        ("pip wheel", machine.put(machine.other, WHEEL12, "12.4.0")),
        ("conda environment", machine.put(machine.conda, "lib/libnvjpeg.so.13", "13.3.2")),
        ("system", "libnvjpeg.so.12"),
        ("cuda.pathfinder", machine.put(machine.other, "p.so", "13.2.4")),
        ("torchvision's copy", machine.put(machine.site, TORCHVISION, "13.5.0")),
    ]
    machine.system["libnvjpeg.so.12"] = "12.4.1"
    machine.pathfinder = places[5][1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFCV_GPU_NVJPEG", places[0][1])
        assert found()[:2] == places[0]
    for place in places[1:]:
        assert not caplog.records  # only torchvision's copy is worth a warning
        nvjpeg_library.library.cache_clear()
        assert found()[:2] == place
        machine.take_away(place[1])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"torchvision's private copy {places[-1][1]} (13.5.0)" in record.getMessage()


@pytest.mark.parametrize(
    ("version", "torch", "expected"),
    [
        (13000, None, [13, 12]),
        (13020, "13.0", [13, 12]),
        (13000, "12.8", [12, 13]),  # one family of libraries in the process
        (14000, None, [13, 12]),
        (12090, None, [12]),
        (12000, "13.0", [12]),
    ],
)
def test_the_driver_decides_and_torch_breaks_the_tie(
    version: int, torch: str | None, expected: list[int], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.driver = version
    paths = {
        13: machine.put(machine.site, WHEEL13, "13.2.3"),
        12: machine.put(machine.site, WHEEL12, "12.4.0"),
    }
    if torch is not None:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(version=SimpleNamespace(cuda=torch)))
    for major in expected:
        nvjpeg_library.library.cache_clear()
        assert found()[1] == paths[major]
        os.unlink(paths[major])
    with pytest.raises(BackendUnavailable, match="nvJPEG not found"):
        nvjpeg_library.library.__wrapped__()


def test_a_cpu_torch_says_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(version=SimpleNamespace(cuda=None)))
    path = machine.put(machine.site, WHEEL13, "13.2.3")
    assert found()[1] == path


def test_too_old_is_refused_with_the_line_to_install(machine: Machine) -> None:
    old = {
        machine.put(machine.site, WHEEL13, "13.2.2"): "13.2.2, older than 13.2.3",
        machine.put(machine.site, WHEEL12, "12.3.5"): "12.3.5, older than 12.4.0",
        machine.put(machine.conda, "lib/libnvjpeg.so.12", "12.0.0"): "12.0.0, older than 12.4.0",
        machine.put(machine.site, TORCHVISION, "13.0.1"): "13.0.1, older than 13.2.3",
    }
    with pytest.raises(BackendUnavailable) as caught:
        nvjpeg_library.library()
    message = str(caught.value)
    for path, reason in old.items():
        assert f"not usable: {path} is version {reason}: such builds crash or hang" in message
    assert "pip install 'nvidia-nvjpeg-cu12>=12.4.0.76'" in message
    assert message.splitlines()[-1].startswith("What to do: pip install 'nvidia-nvjpeg>=13.2.3', or jpeg_ba")


def test_a_good_one_further_down_is_taken(machine: Machine) -> None:
    machine.put(machine.site, WHEEL13, "13.0.1")
    machine.put(machine.site, WHEEL12, "junk")
    machine.system["libnvjpeg.so.13"] = "13.3.2"
    assert found() == ("system", "libnvjpeg.so.13", (13, 3, 2))


def test_the_message_says_what_was_looked_for_where(machine: Machine) -> None:
    machine.driver = 12040
    with pytest.raises(BackendUnavailable) as caught:
        nvjpeg_library.library()
    message = str(caught.value)
    for part in (
        WHEEL12,
        str(machine.site),
        str(machine.conda / "lib"),
        "FFCV_GPU_NVJPEG",
        "cuda.pathfinder",
    ):
        assert part in message
    assert "nvidia-nvjpeg-cu12" in message.splitlines()[-1]
    assert "so.13" not in message  # the driver could not run it


def test_pathfinder_may_not_bring_a_library_that_the_driver_cannot_run(machine: Machine) -> None:
    machine.driver = 12080
    machine.pathfinder = machine.put(machine.other, "p.so.13", "13.3.2")
    with pytest.raises(BackendUnavailable, match=r"p\.so\.13 is for CUDA 13, which the driver cannot run"):
        nvjpeg_library.library()


@pytest.mark.parametrize(("version", "words"), [(0, "there is no driver"), (11080, "this driver's is 11.8")])
def test_no_driver_that_could_run_it(version: int, words: str, machine: Machine) -> None:
    machine.put(machine.site, WHEEL13, "13.2.3")
    machine.driver = version
    with pytest.raises(BackendUnavailable, match=rf"libcuda.so.1\) for CUDA 12 or newer, but {words}"):
        nvjpeg_library.library()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be loaded: .*cannot open shared object"),
        ("junk", "is not nvJPEG: .*nvjpegGetProperty"),
        ("13.0.1", "is version 13.0.1, older than 13.2.3.*pip install 'nvidia-nvjpeg>=13.2.3'"),
        ("11.9.0", "is version 11.9.0, older than"),
    ],
)
def test_a_named_file_that_will_not_do(
    text: str | None, words: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.put(machine.site, WHEEL13, "13.2.3")  # not taken instead: what was named is meant
    path = machine.put(machine.other, "mine.so", text) if text else str(machine.other / "mine.so")
    monkeypatch.setenv("FFCV_GPU_NVJPEG", path)
    with pytest.raises(BackendUnavailable, match=f"^FFCV_GPU_NVJPEG: {path} {words}.* Name another file"):
        nvjpeg_library.library()


def test_off(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.put(machine.site, WHEEL13, "13.2.3")
    monkeypatch.setenv("FFCV_GPU_NVJPEG", "off")
    with pytest.raises(BackendUnavailable, match="switched off by FFCV_GPU_NVJPEG=off"):
        nvjpeg_library.library()


def test_looked_for_once(machine: Machine) -> None:
    path = machine.put(machine.site, WHEEL13, "13.2.3")
    first = nvjpeg_library.library()
    os.unlink(path)
    assert nvjpeg_library.library() is first


# ---- real libraries


@pytest.mark.parametrize(
    ("version", "wheel"), [(13000, "nvidia-nvjpeg"), (12090, "nvidia-nvjpeg-cu12")], ids=["cuda13", "cuda12"]
)
def test_the_installed_wheels(version: int, wheel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "driver_version", lambda: version)
    monkeypatch.delenv("FFCV_GPU_NVJPEG", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # its CUDA would decide between the two
    library = nvjpeg_library.library.__wrapped__()
    place = WHEEL13 if version == 13000 else WHEEL12
    assert library.origin == "pip wheel"
    assert Path(library.path) == Path(str(distribution(wheel).locate_file(place)))
    assert ".".join(map(str, library.version)) == distribution(wheel).version.rpartition(".")[0]


def test_torchvisions_real_copy_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = sorted(Path(str(distribution("torchvision").locate_file("torchvision.libs"))).glob("libnvjpeg*"))
    if not copies:
        pytest.skip("this build of torchvision has no nvJPEG inside")
    monkeypatch.setenv("FFCV_GPU_NVJPEG", str(copies[0]))
    version = nvjpeg.version(nvjpeg.bind(ctypes.CDLL(str(copies[0])), ["nvjpegGetProperty"]))
    if version >= nvjpeg_library.REQUIRED[version[0]]:
        assert nvjpeg_library.library.__wrapped__().version == version
    else:
        with pytest.raises(BackendUnavailable, match=r"older than 1[23]\.\d\.\d"):
            nvjpeg_library.library.__wrapped__()


def test_pathfinder_is_really_asked() -> None:
    pathfinder = pytest.importorskip("cuda.pathfinder")
    path = nvjpeg_library._from_pathfinder()
    assert path is not None
    assert path == pathfinder.load_nvidia_dynamic_lib("nvjpeg").abs_path

"""What tests share: real photographs, JPEGs of every kind made by Pillow, the reference files, the gpu rule.

Everything here is made by software that is not ours, so that tests compare with something else.
"""

from __future__ import annotations

import functools
import gc
import gzip
import importlib
import importlib.util
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent

# No deadline: two shared cores make any single timing meaningless. Derandomised: a failure repeats.
hypothesis.settings.register_profile("ffcv_gpu", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ffcv_gpu")


# On a machine that has no kernels yet, any test may be the one that compiles them: none counts that warning.
logging.getLogger("ffcv_gpu.kernels._announcer").setLevel(logging.CRITICAL)


# A shell that starts a job in the background lets it ignore Ctrl-C, and so would whatever the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The servers of tests are on this machine, whatever proxy the environment names.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1")))


@hypothesis.given(st.none())
def draw_once(_: None) -> None:
    """Let Hypothesis set up what it keeps in this thread."""


def pytest_collection_finish() -> None:
    """Let the garbage collector, which many tests call, pass over what stays: 0.1 s each time.

    Hypothesis must have run before, because it then asks the collector who refers to its generator of random
    numbers: on Python 3.14 that is a frozen dictionary, which the collector does not name.
    """
    draw_once()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_looked_at_again() -> None:
    """The same for what earlier files have imported and compiled: by the end it would be 0.4 to 0.9 s."""
    gc.collect()
    gc.freeze()


# ---- GPU


def _no_cuda() -> str:
    """Why CUDA cannot be used here; "" if it can."""
    from ffcv_gpu.native import driver

    if driver.driver_version() == 0:
        return "no CUDA driver (libcuda.so.1)"
    return "" if driver.device_count() else "the CUDA driver shows no device"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked gpu skip without CUDA, or fail when FFCV_GPU_REQUIRE_CUDA=1 says it must be there."""
    if item.get_closest_marker("gpu") is None:
        return
    reason = _no_cuda()
    if reason and os.environ.get("FFCV_GPU_REQUIRE_CUDA") == "1":
        pytest.fail(f"FFCV_GPU_REQUIRE_CUDA=1, but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)


# ---- FFCV itself, in an environment of its own


@pytest.fixture(scope="session")
def ffcv_python() -> str:
    """A Python that has FFCV 1.0.2; ``python -m benchmarks setup-peer ffcv`` makes one."""
    python = os.environ.get("FFCV_GPU_FFCV_PYTHON", "")
    if not python:
        pytest.skip("FFCV_GPU_FFCV_PYTHON names no Python with FFCV 1.0.2")
    done = subprocess.run([python, "-c", "import ffcv.loader"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{python} cannot import ffcv: {done.stderr.splitlines()[-1]}")
    return python


# ---- reference files that are not part of the repository


@pytest.fixture
def single_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are made one by one, however light they are, as large ones are."""
    monkeypatch.setattr("ffcv_gpu.loader.weights.MOST_BUNDLED", 1)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """No epoch of a loader has a thread, before and after.

    Before: an earlier test, of any file, may have left one to the garbage collector, which waits for nobody.
    """
    from tests.small_file import no_thread_soon

    gc.collect()
    no_thread_soon()
    yield
    gc.collect()
    no_thread_soon()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference files: FFCV_GPU_SHARED, else ``shared`` beside the repository; skips without."""
    folder = Path(os.environ.get("FFCV_GPU_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference files: {folder} is not a folder (FFCV_GPU_SHARED may name it)")
    return folder


@pytest.fixture(scope="session")
def reference_betons(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of FFCV's own files, unpacked (``jpg.beton`` ...), and what FFCV reads there (``.npz``)."""
    source = shared / "ffcv" / "betons"
    if not source.is_dir():
        pytest.skip(f"no reference files: {source} is not a folder")
    folder = tmp_path_factory.mktemp("betons")
    for packed in source.glob("*.beton.gz"):
        (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    for values in source.glob("*.npz"):
        (folder / values.name).symlink_to(values)
    return folder


@pytest.fixture(scope="session")
def imagenet_jpegs(shared: Path) -> list[Path]:
    """Paths of some hundred ImageNet photographs as they were published, sorted; skips without them."""
    paths = sorted((shared / "data" / "imagenet-sample").rglob("*.JPEG"))
    if not paths:
        pytest.skip(f"no photographs in {shared}/data/imagenet-sample")
    return paths


# ---- photographs and JPEGs

_PHOTOS = {
    "skimage.data": ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png"),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}


@functools.cache
def _photos() -> tuple[npt.NDArray[np.uint8], ...]:
    from PIL import Image

    found = []
    for package, names in _PHOTOS.items():
        for name in names:
            with Image.open(io.BytesIO(files(package).joinpath(name).read_bytes())) as image:
                pixels = np.asarray(image.convert("RGB")).copy()
            pixels.setflags(write=False)
            found.append(pixels)
    return tuple(found)


@pytest.fixture(scope="session")
def photos() -> tuple[npt.NDArray[np.uint8], ...]:
    """Seven real photographs, uint8 (H, W, 3), read-only, from scikit-image and scikit-learn."""
    return _photos()


def _make_photo(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    photo = _photos()[seed % len(_photos())]
    tall, wide = max(0, height - photo.shape[0]), max(0, width - photo.shape[1])
    if tall or wide:
        photo = np.pad(photo, ((0, tall), (0, wide), (0, 0)), mode="symmetric")
    y = rng.integers(photo.shape[0] - height + 1)
    x = rng.integers(photo.shape[1] - width + 1)
    return np.ascontiguousarray(photo[y : y + height, x : x + width])


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., npt.NDArray[np.uint8]]:
    """``make_photo(height, width, seed=0)``: a crop of a real photograph (mirrored beyond its edges).

    uint8 (height, width, 3), C-contiguous, the caller's own; the same seed gives the same pixels.
    """
    return _make_photo


def _make_jpeg(
    height: int, width: int, seed: int = 0, *, quality: int = 90, mode: str = "RGB", orientation: int = 0,
    **options: Any,
) -> bytes:  # fmt: skip
    from PIL import Image

    image = Image.fromarray(_make_photo(height, width, seed)).convert(mode)
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def make_jpeg() -> Callable[..., bytes]:
    """``make_jpeg(height, width, seed=0, *, quality=90, mode="RGB", orientation=0, **options)``: JPEG bytes.

    Written by Pillow. ``mode``: RGB, L or CMYK; ``orientation``: EXIF 1-8, 0 for no EXIF; ``options`` are
    Pillow's: ``subsampling`` ("4:4:4", "4:2:2", "4:2:0"), ``progressive``, ``restart_marker_rows``,
    ``keep_rgb``, ``optimize``, ``comment`` ...
    """
    return _make_jpeg


# ---- libturbojpeg, which is optional


@functools.cache
def _turbojpeg_wheel() -> str | None:
    """The library in the wheel ``turbojpeg``, which the loader's search does not know."""
    spec = importlib.util.find_spec("turbojpeg")
    if spec is None or spec.origin is None:
        return None
    return next(map(str, Path(spec.origin).parent.glob("turbojpeg.libs/libturbojpeg*.so*")), None)


def _with_wheel(monkeypatch: pytest.MonkeyPatch, needed: str) -> Iterator[None]:
    """Have the module `needed` of `ffcv_gpu.native` find a library, if need be the wheel's; else skip."""
    modules = [importlib.import_module(f"ffcv_gpu.native.{name}") for name in ("turbojpeg", "turbojpeg3")]
    if sys.modules[f"ffcv_gpu.native.{needed}"].library() is not None:
        yield
        return
    wheel = _turbojpeg_wheel()
    if wheel is None:
        pytest.skip("no libturbojpeg 3 on this machine (python -m benchmarks setup-peer libturbojpeg)")
    monkeypatch.setenv("FFCV_GPU_TURBOJPEG", wheel)
    for module in modules:
        module.library.cache_clear()
    yield
    for module in modules:
        module.library.cache_clear()


@pytest.fixture
def libturbojpeg(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With a libturbojpeg: the machine's, that of FFCV_GPU_TURBOJPEG, or the wheel's; skips without."""
    yield from _with_wheel(monkeypatch, "turbojpeg")


@pytest.fixture
def turbojpeg3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same with a libturbojpeg 3."""
    yield from _with_wheel(monkeypatch, "turbojpeg3")


@pytest.fixture
def no_turbojpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without any libturbojpeg: simplejpeg decodes."""
    for module in ("turbojpeg", "turbojpeg3"):
        monkeypatch.setattr(f"ffcv_gpu.native.{module}.library", lambda: None)


@pytest.fixture
def cpu_decoder() -> str:
    """The backend that decodes what is cropped on this machine's CPU."""
    from ffcv_gpu.native import turbojpeg, turbojpeg3

    if turbojpeg3.library() is not None:
        return "turbo3"
    return "turbo" if turbojpeg.library() is None else "turbo2"


# ---- torchvision beside a CPU torch


def _register_nothing(*_: Any, **__: Any) -> Callable[[Any], Any]:
    return lambda function: function


@functools.cache
def _import_torchvision() -> ModuleType:
    torch = pytest.importorskip("torch")
    # torchvision installed with --no-deps beside a CPU torch has no compiled operators, and registering
    # the fake twin of an operator that is not there raises. The Python parts work without.
    with mock.patch.object(torch.library, "register_fake", _register_nothing):
        torchvision = pytest.importorskip("torchvision")
        pytest.importorskip("torchvision.transforms.v2.functional")
    return torchvision


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """The torchvision package, with ``transforms`` and ``transforms.v2.functional`` imported."""
    return _import_torchvision()

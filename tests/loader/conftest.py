"""What the loader's tests share: fake GPUs, and a small file of every kind of field."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.jpeg.nvjpeg import handles
from ffcv_gpu.native import nvjpeg_library
from tests.fake_gpu import FakeGpu
from tests.mixed_file import Mixed, write_mixed
from tests.small_file import epoch, small_loader, write_small


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeGpu]]:
    """Makes fake GPUs; at the end, none of nvJPEG's rules may have been broken."""
    made = []

    def make(**settings: Any) -> FakeGpu:
        fake = FakeGpu(**settings)
        made.append(fake)
        monkeypatch.setattr("ffcv_gpu.loader.placement.require_device", lambda name: None)
        monkeypatch.setattr("ffcv_gpu.loader.assembly.gpu_device", lambda name: fake.device)
        monkeypatch.setattr(nvjpeg_library, "library", fake.nvjpeg.as_library)
        # What is kept for the whole process would keep every fake library and its memory.
        monkeypatch.setattr(handles, "_known", {})
        # The files of tests are small; yet a part is to be made in several pieces.
        monkeypatch.setattr("ffcv_gpu.loader.gpu_batch.PIECE_BYTES", 1)
        return fake

    yield make
    gc.collect()
    for fake in made:
        fake.close()


@pytest.fixture(params=["cpu", "gpu", "gpu, cpu decodes", "gpu, cpu shares"])
def device(request: pytest.FixtureRequest, gpu: Callable[..., FakeGpu]) -> dict[str, Any]:
    """Arguments of a Loader that runs on the CPU, or on a fake GPU."""
    if request.param == "cpu":
        return {}
    gpu()
    more = {"gpu, cpu decodes": {"jpeg_backend": "turbo"}, "gpu, cpu shares": {"cpu_share": 0.5}}
    return {"device": "cuda:0", **more.get(request.param, {})}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Any]) -> Path:
    """The file of `tests.small_file`; not to be changed."""
    return write_small(tmp_path_factory.mktemp("small") / "small.beton", make_photo)


@pytest.fixture(scope="session")
def good(small: Path) -> list[npt.NDArray[np.generic]]:
    """What an epoch of `small_loader` gives, in the order of the file."""
    return epoch(small_loader(small))


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """A copy of the small file, to be changed."""
    path = tmp_path / "copy.beton"
    path.write_bytes(small.read_bytes())
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Any]) -> dict[float, Path]:
    """Files of `tests.mixed_file`, by their share of JPEGs; not to be changed."""
    folder = tmp_path_factory.mktemp("mixed")
    shares = (0.0, 0.4, 1.0)
    return {share: write_mixed(folder / f"{share}.beton", Mixed(make_photo, share)) for share in shares}


@pytest.fixture(scope="session")
def equal_sizes(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Any]) -> Path:
    """A file of images of 32 x 32, half of them JPEGs; not to be changed."""
    return write_mixed(tmp_path_factory.mktemp("mixed") / "equal.beton", Mixed(make_photo, 0.5, (32, 32)))

"""A GPU that does nothing: behind the calls that the Loader makes, only time passes, or not even that.

The fake GPU of ``tests/``, without its work and without its checks. Its results are garbage.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[2]


def tests_package() -> None:
    """Make ``import tests.x`` find the repository's tests; the root is not on the path."""
    package = ModuleType("tests")
    package.__path__ = [str(ROOT / "tests")]
    package.__spec__ = importlib.machinery.ModuleSpec("tests", None, is_package=True)
    sys.modules.setdefault("tests", package)


tests_package()
from tests import fake_gpu, fake_nvjpeg  # noqa: E402 (not before that)

#: outputs of each shape and type that are used in turn: more than a consumer holds
OUTPUTS = 24
#: seconds between looks at the clock while spinning
STEP = 0.0005


class Engines:
    """Takes the time of decoding, waiting or spinning without the GIL.

    Attributes
    ----------
    spun : float
        CPU seconds of spinning so far.
    """

    def __init__(self, seconds_per_image: float, *, spins: bool) -> None:
        self.seconds_per_image, self.spins = seconds_per_image, spins
        self.spun = 0.0
        begin, tries = time.perf_counter(), 20_000
        self._burn(tries)
        self._rounds = max(1, int(tries * STEP / (time.perf_counter() - begin)))

    def decode(self, images: int) -> None:
        """Take the time of so many images."""
        end = time.perf_counter() + images * self.seconds_per_image
        if not self.spins:
            time.sleep(max(0.0, end - time.perf_counter()))
            return
        begin = time.thread_time()
        while time.perf_counter() < end:
            self._burn(self._rounds)
        self.spun += time.thread_time() - begin

    @staticmethod
    def _burn(rounds: int) -> None:
        """Compute without the GIL."""
        hashlib.pbkdf2_hmac("sha256", b"spin", b"spin", rounds)


class StillNvjpeg(fake_nvjpeg.FakeNvjpeg):
    """nvJPEG whose batches take the engines' time and write nothing."""

    time: Engines

    def _batch(self, owner: Any, state: Any, *_: Any) -> None:
        if self.time.seconds_per_image:
            self.time.decode(state.batch_size)


class StillOwner(fake_gpu.FakeOwner):
    """Memory that nothing is copied to."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._outputs: dict[Any, list[torch.Tensor]] = defaultdict(list)
        self._turn = 0

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """Return one of some tensors, in turn."""
        with self._lock:
            kept = self._outputs[shape, dtype]
            if len(kept) < OUTPUTS:
                kept.append(torch.empty(shape, dtype=getattr(torch, dtype)))
                return kept[-1].view(shape)
            self._turn += 1
            return kept[self._turn % OUTPUTS].view(shape)

    def upload(self, *_: Any) -> None:
        """Copy nothing."""

    def download(self, memory: Any, start: int, target: Any, stream: Any) -> None:
        """Copy nothing."""

    def copy(self, *_: Any) -> None:
        """Copy nothing."""


class StillLaunches(fake_gpu.FakeLaunches):
    """Launches of nothing."""

    def compose(self, *_: Any) -> None:
        """Compute nothing."""

    def transform(self, *_: Any) -> None:
        """Compute nothing."""


def still_gpu(engines: Engines) -> fake_gpu.FakeGpu:
    """Return a GPU that does nothing, as this process's cuda:0."""
    with mock.patch.object(fake_gpu, "FakeOwner", StillOwner), \
         mock.patch.object(fake_gpu, "FakeNvjpeg", StillNvjpeg):  # fmt: skip
        gpu = fake_gpu.FakeGpu(deferred=False, total=1 << 34, launches=StillLaunches)
    gpu.nvjpeg.time = engines
    fake_gpu.put_in_place(gpu, Patch())
    return gpu


class Patch:
    """pytest's monkeypatch for a process that patches once."""

    setattr = staticmethod(setattr)

    @staticmethod
    def setitem(mapping: Any, key: Any, value: Any) -> None:
        """Set an item."""
        mapping[key] = value

"""A small file of every kind of field, loaders of it, and ways to damage it: for tests of the loader."""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.fields import IntField, NDArrayField, RGBImageField
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, NDArrayDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.loader.handoff import Handoff
from ffcv_gpu.transforms import NormalizeImage, Squeeze, ToDevice, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter

#: samples of the small file
N = 23
MEAN, STD = np.array([124.0, 117.0, 104.0]), np.array([58.0, 57.0, 57.0])


class Small:
    """Sample i: JPEG bytes if i is even, else pixels; label i; a vector of 5 floats."""

    def __init__(self, make_photo: Callable[..., Any]) -> None:
        self._photos = [make_photo(40 + i % 4, 48 - i % 3, seed=i) for i in range(N)]

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Any, int, Any]:
        photo = self._photos[i]
        image = photo if i % 2 else simplejpeg.encode_jpeg(photo, 92)
        return image, i, np.arange(5, dtype=np.float32) + i


def write_small(path: Path, make_photo: Callable[..., Any], dataset: type[Small] = Small) -> Path:
    """Write `N` samples: image (JPEG if the row is even, else raw), label (the row), vector."""
    fields = {
        "image": RGBImageField(),
        "label": IntField(),
        "vector": NDArrayField(np.dtype("float32"), (5,)),
    }
    writer = DatasetWriter(path, fields, num_workers=1, progress=False, page_size=1 << 21)
    writer.from_indexed_dataset(dataset(make_photo))
    return path


def small_pipelines(device: Any = None) -> dict[str, list[Any]]:
    """Pipelines for `small`: normalised images of 24 x 24, labels (N,), vectors (N, 5)."""
    there = [] if device is None else [ToDevice(device)]
    image = [CenterCropRGBImageDecoder((24, 24), 0.9), ToTensor(), *there, ToTorchImage()]
    return {
        "image": [*image, NormalizeImage(MEAN, STD, np.float32)],
        "label": [IntDecoder(), ToTensor(), Squeeze(1)],
        "vector": [NDArrayDecoder(), ToTensor(), *there],
    }


def small_loader(path: Path, device: Any = None, batch_size: int = 2, **options: Any) -> Loader:
    """A loader of the small file, or of one made from it; `device` are arguments that say where it runs."""
    device = device or {}
    pipelines = small_pipelines("cuda:0" if device else None) | options.pop("pipelines", {})
    settings = {"seed": 2, "drop_last": False, "num_workers": 2, "pipelines": pipelines, **device}
    return Loader(path, batch_size, **{**settings, **options})


def damaged(path: Path, folder: Path, *bad: tuple[int, str], at: float = 0.5) -> Path:
    """A copy of a file in which 8 bytes of some payloads are flipped, `at` of the way through each."""
    dataset, data = Dataset(str(path), {}, os_cache=True), bytearray(path.read_bytes())
    for sample, field in bad:
        payloads = dataset.payloads(field)
        start = int(payloads.offsets[sample] + at * max(payloads.lengths[sample] - 8, 0))
        data[start : start + 8] = bytes(byte ^ 0x5A for byte in data[start : start + 8])
    target = folder / "damaged.beton"
    target.write_bytes(data)
    return target


def loader_threads() -> list[str]:
    """Names of the threads that epochs have; a device's own thread stays."""
    return [t.name for t in threading.enumerate() if t.name.startswith(("ffcv_gpu-worker", "ffcv_gpu-cond"))]


def no_thread_soon() -> None:
    """Wait until epochs that were left to themselves have ended, perhaps in the middle of compiling."""
    deadline = time.monotonic() + 120
    while loader_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_no_room(run: Any) -> None:
    """Wait until an epoch's thread has a batch for which there is no room.

    By the line at which it is: in the same function it may have handed over the batch that took the last
    room, and be about to go on with the next one.
    """
    handoff, thread = run.handoff, run._thread.ident
    while True:
        frame = sys._current_frames()[thread]  # waiting is done in C
        waiting = "_taken.acquire" in linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0)
        del frame  # else what it refers to would stay
        if waiting and handoff._items.qsize() >= handoff._room:
            return
        time.sleep(0.01)


def until_the_loop_waits() -> None:
    """Wait until a thread, in C, waits for a batch."""
    while Handoff.get.__code__ not in {frame.f_code for frame in sys._current_frames().values()}:
        time.sleep(0.001)


def at_rest(running: Any) -> None:
    """Wait until an epoch is as far ahead as it may be: then nobody is in the middle of a read, in which
    a cut map would be the end of this process (see the README)."""
    run = running._run
    wait_for_no_room(run)
    workers = run.executor._max_workers
    barrier = threading.Barrier(workers)  # whose turn has come has nothing else to do
    for free in [run.executor.submit(barrier.wait) for _ in range(workers)]:
        free.result(60)


def epoch(loader: Any) -> list[npt.NDArray[Any]]:
    """All outputs of an epoch, in order; read only at its end, when a (fake) GPU has done everything."""
    return joined(loader, list(loader))


def joined(loader: Any, batches: list[Any]) -> list[npt.NDArray[Any]]:
    """Batches of `loader` as one array for each output."""
    if loader._assembly.gpu is not None:
        loader._assembly.gpu.owner.consumer.synchronize()
    columns = zip(*batches, strict=True)
    return [np.concatenate([np.asarray(part) for part in column]) for column in columns]


def same(got: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]]) -> None:
    """Assert that two epochs are equal."""
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


PREAMBLE = """
import logging, os, signal, sys, threading, time
logging.getLogger("ffcv_gpu.kernels._announcer").setLevel(logging.CRITICAL)
sys.path.insert(0, {root!r})
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv_gpu.loader import Loader
IMAGE = [CenterCropRGBImageDecoder((24, 24), 0.9)]
PIPELINES = {{"label": [IntDecoder()], "image": IMAGE, "vector": None}}
"""


def run_program(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, behind `PREAMBLE`: what happens there may be the end of a process."""
    script = PREAMBLE.format(root=str(Path(__file__).resolve().parent.parent)) + textwrap.dedent(code)
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=170)


def open_files() -> set[tuple[str, str]]:
    """Return number and name of each file that this process has open.

    What is no longer open later may be what earlier tests left: a connection that its library closes.
    """
    gc.collect()
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the list itself, which is closed by now
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found

"""What the doctor's tests share: files, and a reader that is as slow as it is told."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from time import perf_counter, process_time

import pytest
import simplejpeg

from ffcv_gpu.doctor import Setup, measure
from ffcv_gpu.doctor.trial import REPEATS, run_trial
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.readers import MappedReader
from ffcv_gpu.transforms import RandomHorizontalFlip
from ffcv_gpu.writer import DatasetWriter

SIDE, BATCH = 64, 8


class SlowDisk:
    """Hands over so many bytes a second, to all threads together; what it reads comes from `reader`."""

    def __init__(self, reader, bytes_per_second, sleep=time.sleep):
        self._reader, self._rate, self._lock = reader, bytes_per_second, threading.Lock()
        self._sleep = sleep

    def read_into(self, offsets, lengths, out):
        for length in lengths.tolist():
            with self._lock:
                self._sleep(length / self._rate)
        self._reader.read_into(offsets, lengths, out)


class Time:
    """The clock of `measure_disk`: a slow disk alone takes time, whatever else the machine does."""

    now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def disk_clock(monkeypatch):
    made = Time()
    monkeypatch.setattr("ffcv_gpu.doctor.disk.perf_counter", made)
    return made


class SlowMap(MappedReader):
    """A map that is read like a slow disk."""

    rate = 2e6

    def __init__(self, path, data):
        super().__init__(path, data)
        self._disk = SlowDisk(super(), self.rate)

    def locate(self, offsets, lengths):
        return None

    def read_into(self, offsets, lengths, out):
        self._disk.read_into(offsets, lengths, out)


def write(path, images, **field):
    fields = {"image": RGBImageField(**field), "label": IntField()}
    writer = DatasetWriter(path, fields, num_workers=1, progress=False)
    writer.from_indexed_dataset([(image, i) for i, image in enumerate(images)])
    return path


def loader_of(path, *, side=SIDE, batch=BATCH, workers=1):
    """A loader as the doctor assumes it, made by hand."""
    steps = [RandomResizedCropRGBImageDecoder((side, side)), RandomHorizontalFlip()]
    return Loader(path, batch, workers, pipelines={"image": steps}, drop_last=False, seed=0)


def images_per_second(path, *, step=0.0, enough, **settings):
    """What really happens: images/s of the best epoch of a loop that takes `step` seconds a batch.

    Up to ten epochs, until one reaches `enough`: the machine may do other things during the first ones.
    """
    loader = loader_of(path, **settings)
    list(loader)
    best = 0.0
    for _ in range(10):
        begin = perf_counter()
        for _batch in loader:
            time.sleep(step)
        best = max(best, len(loader.indices) / (perf_counter() - begin))
        if best >= enough:
            break
    return best


def images_per_cpu_second(*files, epochs=4, **settings):
    """What one thread really does of each file, had it a CPU of its own: the best of epochs in turn."""
    loaders, best = [loader_of(file, **settings) for file in files], [0.0] * len(files)
    for epoch in range(epochs + 1):
        for number, loader in enumerate(loaders):
            begin = process_time()
            seen = sum(len(labels) for _images, labels in loader)
            if epoch:  # the first compiles
                best[number] = max(best[number], seen / (process_time() - begin))
    return best


@pytest.fixture
def decoded(monkeypatch, no_turbojpeg):
    """Pixels of each JPEG that was decoded; simplejpeg decodes, also where there is a libturbojpeg."""
    real, seen = simplejpeg.decode_jpeg, []

    def decode(*arguments, **settings):
        image = real(*arguments, **settings)
        seen.append(image.shape[0] * image.shape[1])
        return image

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    return seen


@pytest.fixture
def by_pixels(decoded, monkeypatch):
    """Trials in which decoding a pixel takes a nanosecond, and all else next to nothing, on one CPU."""

    def trial(*arguments, **settings):
        decoded.clear()
        real = run_trial(*arguments, **settings)
        stages = {"decode": 1e-9 * sum(decoded) / (REPEATS + 1), "compose": 1e-12 * real.samples}
        return replace(real, seconds=1.0, conducting_seconds=1e-12, stages=stages)

    monkeypatch.setattr("ffcv_gpu.doctor.variants._seconds_ratio", lambda now, then: 1.0)
    monkeypatch.setattr("ffcv_gpu.doctor.crop_index.thread_time", lambda: 1e-9 * sum(decoded))
    for name in ("costs", "variants"):
        monkeypatch.setattr(f"ffcv_gpu.doctor.{name}.run_trial", trial)
    for name in ("costs", "diagnosis"):
        monkeypatch.setattr(f"ffcv_gpu.doctor.{name}.usable_cpus", lambda: 1)


@pytest.fixture(scope="session")
def photo_file(make_jpeg, tmp_path_factory):
    """64 JPEGs of some 40 kB."""
    path = tmp_path_factory.mktemp("doctor") / "photos.beton"
    return write(path, [make_jpeg(340, 420, i) for i in range(64)])


@pytest.fixture(scope="session")
def found(photo_file):
    """What is measured of that file, once: what follows from it depends on the set-up."""
    return measure(photo_file, Setup(BATCH, 1, SIDE))

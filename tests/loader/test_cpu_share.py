"""`Loader(cpu_share=...)`: the CPU decodes some of the JPEGs of a GPU's batches."""

from __future__ import annotations

import io
import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ffcv_gpu.convert.beton import BetonDataset
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.jpeg.base import Capabilities
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.loader.assembly import Assembly
from ffcv_gpu.loader.cpu_share import BATCHES, FIRST_SHARE, KEEP_BUSY, CpuShare, Effort, checked_share
from ffcv_gpu.loader.gpu_fill import PartFiller, parts_of
from ffcv_gpu.writer import DatasetWriter
from tests.mixed_file import SETTINGS, N, crop, kept, on_cpu, pipelines, same_batches

JPEGS = {share: sum((i * 7919 % N) / N < share for i in range(N)) for share in (0.4, 1.0)}


# `test_cropped_decode` has a libturbojpeg decode for a GPU.
pytestmark = pytest.mark.usefixtures("no_turbojpeg")


# ---- which samples


def test_consecutive_samples_are_divided_evenly():
    taken = CpuShare(0.25).takes(np.arange(100_000), 4)
    assert taken.mean() == pytest.approx(0.25, abs=0.001)
    batches = taken[: 390 * 256].reshape(390, 256).sum(axis=1)
    assert batches.min() >= 60 and batches.max() <= 68


def test_samples_in_random_order_are_divided_as_by_chance():
    rows = np.random.default_rng(0).permutation(1_281_167)
    batches = CpuShare(0.25).takes(rows, 4)[: 5000 * 256].reshape(5000, 256).sum(axis=1)
    assert batches.mean() == pytest.approx(64, abs=0.5) and batches.std() < 1.1 * np.sqrt(256 * 0.25 * 0.75)


def test_a_larger_share_takes_the_same_samples_and_more():
    rows = np.arange(5000)
    before = np.zeros(rows.size, np.bool_)
    for share in (0.0, 1e-3, 0.1, 0.5, 0.9, 1.0):
        taken = CpuShare(share).takes(rows, 4)
        assert not (before & ~taken).any()
        before = taken
    assert before.all()


@pytest.mark.parametrize(("given", "share"), [("auto", "auto"), (0, 0.0), (1, 1.0), (np.float32(0.5), 0.5)])
def test_shares(given, share):
    assert checked_share(given) == share


@pytest.mark.parametrize("given", [-0.1, 1.5, "half", None, True, float("nan"), [0.5]], ids=repr)
def test_what_is_not_a_share(given):
    with pytest.raises(PipelineError, match="cpu_share must be 'auto' or a number from 0 to 1"):
        checked_share(given)


# ---- the balance


class Machine:
    """A GPU, worker threads and a consumer of constant speeds, all in seconds; batches of 100 JPEGs."""

    def __init__(self, gpu, cpu, reading, workers, consumer=0.0, engines=True):
        self.gpu, self.cpu, self.reading, self.workers = gpu, cpu, reading, workers
        self.consumer, self.now, self.share = consumer, 0.0, CpuShare("auto")
        self.engines, self.epoch = engines, 0

    def run(self, batches):
        """Return the share of the last batch."""
        for _ in range(batches):
            here = round(100 * self.share.of(self.workers, engines=self.engines))
            there, began = 100 - here, self.now
            work = 100 * self.reading + here * self.cpu
            self.share.worked(Effort(100, here, here * self.cpu, work))
            self.now += max(work / self.workers, there * self.gpu, 100 * self.consumer)
            self.share.finished(self.epoch, 100, there, began, began + there * self.gpu)
        return here / 100


def test_until_both_are_timed_the_share_is_small():
    share = CpuShare("auto")
    assert share.of(8) == FIRST_SHARE
    share.worked(Effort(10, 0, 0.0, 1.0))
    share.finished(0, 10, 10, 1.0, 2.0)
    assert share.of(8) == FIRST_SHARE


@pytest.mark.parametrize("engines", [True, False], ids=["engines", "no engines"])
@pytest.mark.parametrize(
    ("gpu", "cpu", "workers", "expected"),
    [
        (46e-6, 700e-6, 16, 0.48),  # engines and many cores: H200 with 16
        (46e-6, 700e-6, 2, 0.06),  # engines and few cores
        (400e-6, 700e-6, 4, 0.68),  # a GPU without engines
        (46e-6, 700e-6, 1, 0.03),
    ],
)
def test_without_a_slow_consumer_threads_and_gpu_end_together(gpu, cpu, workers, expected, engines):
    reading = 24e-6
    balance = (KEEP_BUSY * gpu - reading / workers) / (KEEP_BUSY * gpu + cpu / workers)
    assert balance == pytest.approx(expected, abs=0.03)
    machine = Machine(gpu, cpu, reading, workers, engines=engines)
    assert machine.run(200) == pytest.approx(balance, abs=0.02)


def test_a_batch_that_waits_behind_another_on_the_gpu_is_not_slow():
    """Batches that begin every 4 ms and take 10 in turn: each one ends 10 ms after the one before."""
    share = CpuShare("auto")
    for number in range(BATCHES):
        share.worked(Effort(100, 50, 50 * 700e-6, 50 * 700e-6))
        share.finished(0, 100, 100, 1 + number * 4e-3, 1 + (number + 1) * 10e-3)
    busy = KEEP_BUSY * 100e-6  # all the time, and 100 us an image
    assert share.of(16) == pytest.approx(busy / (busy + 700e-6 / 16))


@pytest.mark.parametrize(("cpu", "workers"), [(700e-6, 4), (700e-6, 64)])
def test_while_the_engines_are_busy_all_the_time_the_balance_is_soon_found(cpu, workers):
    machine = Machine(gpu=400e-6, cpu=cpu, reading=10e-6, workers=workers)
    soon = machine.run(BATCHES + 2)
    assert soon > 0.6 and soon == machine.run(200)


def test_engines_that_wait_now_and_then_are_not_what_all_wait_for():
    """The consumer decides how much the CPU does, in each batch anew."""
    machine = Machine(gpu=46e-6, cpu=700e-6, reading=10e-6, workers=16, consumer=40e-6)
    machine.run(200)
    assert max(machine.run(1) for _ in range(50)) < 0.3


def test_reading_alone_may_take_all_of_the_threads_time():
    assert Machine(gpu=46e-6, cpu=700e-6, reading=100e-6, workers=2).run(200) == 0


def test_a_gpu_that_waits_for_the_consumer_decodes_everything():
    assert Machine(gpu=46e-6, cpu=700e-6, reading=10e-6, workers=16, consumer=60e-6).run(200) == 0


def test_the_cpu_decodes_only_what_a_fast_consumer_needs():
    machine = Machine(gpu=46e-6, cpu=700e-6, reading=10e-6, workers=16, consumer=40e-6)
    assert machine.run(200) == pytest.approx(1 - KEEP_BUSY * 40 / 46, abs=0.02)


def test_without_engines_the_cpu_comes_first():
    """A slow consumer: threads could decode everything; a faster one: what they can do in that time."""
    machine = Machine(gpu=400e-6, cpu=700e-6, reading=10e-6, workers=4, consumer=300e-6, engines=False)
    assert machine.run(200) == 1
    machine.consumer = 150e-6
    assert machine.run(200) == pytest.approx((KEEP_BUSY * 150 * 4 - 10) / 700, abs=0.02)
    machine.consumer = 0.0
    assert machine.run(200) == pytest.approx(
        (KEEP_BUSY * 400 - 10 / 4) / (KEEP_BUSY * 400 + 700 / 4), abs=0.02
    )


def test_the_share_follows_a_change():
    machine = Machine(gpu=46e-6, cpu=700e-6, reading=10e-6, workers=16)
    before = machine.run(200)
    machine.cpu = 7000e-6  # other programs use the cores
    assert machine.run(200) < before / 3
    machine.cpu = 700e-6
    assert machine.run(200) == pytest.approx(before, abs=0.02)
    machine.consumer = 60e-6
    assert machine.run(200) == 0


def test_a_pause_between_epochs_does_not_count():
    machine = Machine(gpu=46e-6, cpu=700e-6, reading=10e-6, workers=16)
    before = machine.run(200)
    machine.now += 100.0
    machine.epoch += 1
    for _ in range(BATCHES):
        assert machine.run(1) == pytest.approx(before, abs=0.02)


def test_the_gpus_first_calls_do_not_count():
    """They take seconds; then it would be thought slow, and the CPU would decode nearly everything."""
    machine = Machine(gpu=1.0, cpu=700e-6, reading=10e-6, workers=2)
    machine.run(2)
    machine.gpu = 46e-6
    assert machine.run(4) < 0.1


def test_stalls_count():
    """Every fourth batch is late because another program has the cores: the engines are to stay busy."""
    machine = Machine(gpu=46e-6, cpu=700e-6, reading=10e-6, workers=16)
    before = machine.run(200)
    for _ in range(30):
        machine.run(3)
        machine.now += 100 * 46e-6
    assert machine.run(1) < before - 0.05


# ---- in the loader


@pytest.mark.parametrize("stored", [0.4, 1.0])
@pytest.mark.parametrize("share", [0.3, 1.0, "auto"])
@pytest.mark.parametrize("deferred", [True, False], ids=["late", "early"])
def test_batches_equal_the_cpu_s(gpu, files, stored, share, deferred):
    fake = gpu(deferred=deferred)
    loader = Loader(files[stored], 8, pipelines=pipelines(), cpu_share=share, **SETTINGS)
    same_batches(kept(fake, loader, epochs=2), on_cpu(files[stored], pipelines(None), epochs=2))
    counts = loader.stats().counts
    assert counts.get("jpeg: turbo", 0) + counts.get("jpeg: engine", 0) == 2 * JPEGS[stored]
    if share == 0.3:
        assert 0 < counts["jpeg: turbo"] < counts["jpeg: engine"]


def test_with_a_fixed_share_an_image_always_has_the_same_decoder(gpu, files, monkeypatch):
    """With any batch size and order; an image's bytes tell which one it is."""
    gpu()
    numbers = {image: i for i, (image,) in enumerate(BetonDataset(files[1.0], ["image"], decode=False))}
    assert len(numbers) == N
    seen, submit = [], TurboBackend.submit

    def record(self, encoded, arena, offsets):
        places = zip(encoded.offsets.tolist(), encoded.lengths.tolist(), strict=True)
        seen.extend(numbers[encoded.stored[at : at + length].tobytes()] for at, length in places)
        return submit(self, encoded, arena, offsets)

    monkeypatch.setattr(TurboBackend, "submit", record)
    taken = set(np.flatnonzero(CpuShare(0.3).takes(np.arange(N), 2)).tolist())
    for size, order in ((8, OrderOption.RANDOM), (5, OrderOption.SEQUENTIAL), (41, OrderOption.RANDOM)):
        seen.clear()
        settings = {**SETTINGS, "order": order}
        for _ in Loader(files[1.0], size, pipelines=pipelines(), cpu_share=0.3, **settings):
            pass
        assert len(seen) == len(taken) and set(seen) == taken


def test_what_is_measured(gpu, files, monkeypatch):
    """Every JPEG counts once for the threads and once for its batch; times are within the epoch."""
    gpu()
    efforts, ends, begin = [], [], time.perf_counter()
    monkeypatch.setattr(CpuShare, "worked", lambda _, effort: efforts.append(effort))
    monkeypatch.setattr(CpuShare, "finished", lambda _, *said: ends.append(said))
    loader = Loader(files[0.4], 8, pipelines=pipelines(), cpu_share=0.3, **SETTINGS)
    for _ in loader:
        pass
    seconds, here = time.perf_counter() - begin, loader.stats().counts["jpeg: turbo"]
    assert sum(effort.jpegs for effort in efforts) == JPEGS[0.4]
    assert sum(effort.decoded for effort in efforts) == here > 0
    for effort in efforts:
        assert 0 <= effort.decoding_seconds <= effort.seconds < seconds
        assert (effort.decoding_seconds > 0) == (effort.decoded > 0)
    assert len(ends) == len(loader) and {epoch for epoch, *_ in ends} == {0}
    assert sum(jpegs for _, jpegs, *_ in ends) == JPEGS[0.4]
    assert sum(images for _, _, images, *_ in ends) == JPEGS[0.4] - here
    assert all(begin < began < ended < begin + seconds for _, _, images, began, ended in ends if images)


@pytest.mark.parametrize("engines", [7, 0])
def test_each_batch_takes_the_share_of_its_moment(gpu, files, monkeypatch, engines):
    """It is asked whether the GPU has engines, which decides who comes first."""
    gpu(engines=engines)
    shares, asked = itertools.cycle([0.0, 0.7, 1.0]), []

    def of(_, workers, **said):
        asked.append((workers, said))
        return next(shares)

    monkeypatch.setattr(CpuShare, "of", of)
    loader = Loader(files[1.0], 8, pipelines=pipelines(), cpu_share="auto", **SETTINGS)
    same = [batch for _ in range(2) for batch in loader]
    assert len(same) == len(asked) == 2 * len(loader)
    assert all(said == (2, {"engines": engines > 0}) for said in asked)
    decoded = loader.stats().counts
    assert decoded["jpeg: turbo"] > 2 * N / 3 and sum(decoded.values()) - decoded["jpeg: turbo"] >= 2 * N / 3


def test_stages_and_explanation(gpu, files):
    gpu()
    loader = Loader(files[0.4], 8, pipelines=pipelines(), cpu_share=0.3, **SETTINGS)
    with loader.profile() as profile:
        for _ in loader:
            pass
    stages = profile.stats().stages
    assert stages["cpu decode"].items == loader.stats().counts["jpeg: turbo"]
    assert stages["decode"].calls == stages["submit"].calls > 0  # the waits for the GPU
    assert "nvjpeg (JPEG engines, 7 images at once), 30% of them by turbo on the CPU;" in loader.explain()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"cpu_share": "auto"},
            "7 images at once) and, as far as it helps, by turbo on the CPU;",
        ),
        ({"cpu_share": 0.5, "jpeg_backend": "turbo"}, "decoded by turbo;"),
        ({}, "decoded by nvjpeg (JPEG engines, 7 images at once);"),
    ],
    ids=["auto", "turbo", "none"],
)
def test_explanations(gpu, files, settings, words):
    gpu()
    assert words in Loader(files[0.4], 8, pipelines=pipelines(), **settings, **SETTINGS).explain()


def test_without_a_gpu_it_has_no_effect(files):
    expected = on_cpu(files[0.4], pipelines(None))
    same_batches(on_cpu(files[0.4], pipelines(None), cpu_share=0.5), expected)


def test_a_wrong_share_is_refused_when_the_loader_is_made(files):
    with pytest.raises(PipelineError, match="cpu_share"):
        Loader(files[0.4], 8, pipelines=pipelines(None), cpu_share=2, **SETTINGS)


@pytest.fixture(scope="module")
def rgb_coded(tmp_path_factory, make_photo):
    """A file of JPEGs, every fourth of a kind that nvJPEG gets wrong: red, green and blue as they are."""
    path, samples = tmp_path_factory.mktemp("rgb") / "photos.beton", []
    for i in range(24):
        memory = io.BytesIO()
        Image.fromarray(make_photo(60, 50 + i, i)).save(memory, "JPEG", quality=90, keep_rgb=i % 4 == 0)
        samples.append((memory.getvalue(),))
    DatasetWriter(path, {"image": RGBImageField()}, num_workers=1, progress=False).from_indexed_dataset(
        samples
    )
    return path


@pytest.mark.parametrize("share", [0, 0.5])
def test_what_nvjpeg_gets_wrong_is_left_to_the_worker_threads(gpu, rgb_coded, share):
    fake = gpu()
    made = {"image": crop()}
    loader = Loader(rgb_coded, 8, pipelines=made, cpu_share=share, **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(rgb_coded, {"image": crop(None)}))
    shared = CpuShare(share).takes(np.arange(24), 2)
    count = int((shared | (np.arange(24) % 4 == 0)).sum())
    assert loader.stats().counts == {"jpeg: turbo": count, "jpeg: engine": 24 - count}


class Rectangles(TurboBackend):
    """Gives only the pixels that were asked for; the others are noise."""

    name = "rectangles"
    capabilities = Capabilities(roi=True)

    def submit(self, encoded, arena, offsets):
        done = super().submit(encoded, arena, offsets)
        sizes = encoded.boxes, encoded.heights.tolist(), encoded.widths.tolist(), offsets.tolist()
        for (y, x, rows, columns), height, width, start in zip(*sizes, strict=True):
            image = arena[start : start + 3 * height * width].reshape(height, width, 3)
            shown = image[y : y + rows, x : x + columns].copy()
            image[:] = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
            image[y : y + rows, x : x + columns] = shown
        return done


@given(st.lists(st.integers(1, 10**6), max_size=100), st.integers(1, 40), st.integers(1, 10**7))
def test_ranges_have_every_row_once_and_about_the_same_work(work, count, least):
    ranges = parts_of(np.array(work, np.int64), count, least)
    assert [row for lo, hi in ranges for row in range(lo, hi)] == list(range(len(work)))
    assert all(lo < hi for lo, hi in ranges) and len(ranges) <= count
    if work:
        share = sum(work) / min(count, max(sum(work) // least, 1))
        assert all(sum(work[lo:hi]) <= share + 2 * max(work) for lo, hi in ranges)


def test_what_the_cpu_decodes_is_no_part_of_reading(gpu, files, monkeypatch):
    """Together, pieces were small in images and large in Python: 16 threads waited for its lock."""
    seen = {"fill": set(), "decode": set()}
    for kind in seen:
        real = getattr(PartFiller, kind)

        def noted(filler, *which, real=real, kind=kind):
            decoded = filler._clock.snapshot().counts.get("jpeg: turbo", 0)
            faults = real(filler, *which)
            seen[kind].add(filler._clock.snapshot().counts.get("jpeg: turbo", 0) - decoded)
            return faults

        monkeypatch.setattr(PartFiller, kind, noted)
    fake = gpu()
    loader = Loader(files[1.0], 8, pipelines=pipelines(), cpu_share=0.5, **SETTINGS | {"num_workers": 1})
    same_batches(kept(fake, loader), on_cpu(files[1.0], pipelines(None)))
    assert seen["fill"] == {0} and max(seen["decode"]) > 0


@pytest.mark.parametrize("settings", [{"cpu_share": 0.5}, {"jpeg_backend": "turbo"}], ids=["shared", "alone"])
def test_the_cpu_decodes_only_what_the_crops_show(gpu, files, monkeypatch, settings):
    fake = gpu()
    monkeypatch.setattr(Assembly, "host_backend", lambda *_: Rectangles())
    loader = Loader(files[1.0], 8, pipelines=pipelines(), **settings, **SETTINGS)
    batches = kept(fake, loader)
    assert loader.stats().counts["jpeg: rectangles"] > N / 3
    monkeypatch.undo()
    same_batches(batches, on_cpu(files[1.0], pipelines(None)))

"""Measuring a GPU, on the fake one: the loader, each part of it, the advice; and that all is given back."""

from __future__ import annotations

import gc
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from ffcv_gpu.cli.app import app
from ffcv_gpu.doctor import Setup, gpu, judge, report
from ffcv_gpu.doctor.gpu import measure_gpu
from ffcv_gpu.doctor.survey import survey
from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.trace import betrays
from tests.doctor.conftest import BATCH, SIDE, write
from tests.fake_gpu import FakeGpu, put_in_place

SETUP = Setup(BATCH, 2, SIDE)
LONG = gpu.LONG


@pytest.fixture
def make_gpu(monkeypatch):
    made = []
    monkeypatch.setattr(gpu, "LONG", 1)  # the fake one is slow

    def make(**settings):
        made.append(FakeGpu(**settings))
        put_in_place(made[-1], monkeypatch)
        return made[-1]

    yield make
    gc.collect()
    for fake in made:
        fake.close()


@pytest.fixture(scope="module")
def small(make_jpeg, tmp_path_factory):
    """As many small JPEGs as GPU Huffman decoding needs in a batch."""
    path = tmp_path_factory.mktemp("gpu") / "small.beton"
    return survey(str(write(path, [make_jpeg(48, 60, i) for i in range(64)])), {})


@pytest.fixture(scope="module")
def facts(small):
    """What is measured of them, once; with the outputs of the launches that were measured alone."""
    fake, outputs = FakeGpu(), []
    compose = fake.launches.compose

    def noted(views, block, start, out, stream):
        compose(views, block, start, out, stream)
        outputs.append(out)

    fake.launches.compose = noted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "LONG", 1)
        put_in_place(fake, patch)
        found = measure_gpu(small, SETUP)
    assert len(fake.device._free) == fake.device._made  # no slot is kept
    fake.close()
    object.__setattr__(found, "outputs", outputs)
    return found


def test_the_loader_and_each_part_of_it_are_measured(facts):
    assert facts.name == "cuda:0"
    assert {"submit", "decode", "launch", "read"} <= set(facts.stages)
    assert all(betrays(stage, facts.stages) for stage in facts.stages)
    assert set(facts.batches) == {BATCH // 4, BATCH, 4 * BATCH}
    assert facts.batches[BATCH] == facts.images_per_second
    assert set(facts.routes) == {"jpeg: engine", "jpeg: gpu huffman", "jpeg: one by one, cpu huffman"}
    rates = (facts.images_per_second, facts.upload_bytes_per_second, facts.launch_images_per_second)
    assert min(*rates, *facts.routes.values(), facts.shared_images_per_second) > 0


def test_what_is_launched_are_crops_of_the_decoded_photographs(facts):
    last = facts.outputs[-1].numpy()
    assert last.shape == (64, SIDE, SIDE, 3)
    assert min(image.std() for image in last) > 5
    assert len({image.tobytes() for image in last}) == 64


def test_an_epoch_is_so_long_that_its_start_hardly_counts(make_gpu, small, monkeypatch):
    """Of four batches, it took a third of the time on an H200: the doctor then blamed the CPU."""
    make_gpu()
    monkeypatch.setattr(gpu, "LONG", LONG)
    seen, run = [], gpu.run_trial

    def watched(path, setup, rows, **options):
        seen.append(len(rows))
        return run(path, setup, rows[:BATCH], **options)

    monkeypatch.setattr(gpu, "run_trial", watched)
    measure_gpu(small, SETUP)
    assert len(seen) == 4 and min(seen) >= 20 * BATCH


def test_without_engines_there_is_no_such_route(make_gpu, small):
    make_gpu(engines=0)
    routes = measure_gpu(small, SETUP).routes
    assert set(routes) == {"jpeg: gpu huffman", "jpeg: one by one, cpu huffman"}


def test_raw_images_are_not_decoded(make_gpu, make_photo, tmp_path, found):
    make_gpu()
    path = write(tmp_path / "raw.beton", [make_photo(40, 50, i) for i in range(8)], write_mode="raw")
    facts = measure_gpu(survey(str(path), {}), SETUP)
    assert (facts.routes, facts.launch_images_per_second, facts.shared_images_per_second) == ({}, 0.0, 0.0)
    assert facts.limits(survey(str(path), {})) == {}
    assert "the limit on" not in report(judge(replace(found, gpu=facts), Setup(BATCH, 1, SIDE)))


def test_limits_are_of_all_images_of_a_mixed_file(facts, small):
    whole = facts.limits(small)
    half = replace(small, jpeg=np.arange(small.samples) % 2 == 0)
    mixed = facts.limits(half)
    assert mixed["decoding"] == pytest.approx(2 * whole["decoding"])
    assert mixed["uploading"] == pytest.approx(2 * whole["uploading"], rel=0.2)
    assert mixed["the fused launch"] == whole["the fused launch"]


def test_what_it_says(facts, found):
    fast = replace(
        facts, images_per_second=1e6, shared_images_per_second=1.5e6, batches={8: 1e6, 32: 2e6},
        upload_bytes_per_second=1e12, launch_images_per_second=9e6,
        routes={"jpeg: engine": 1.1e6, "jpeg: gpu huffman": 5e5},
    )  # fmt: skip

    def text(gpu):
        return report(judge(replace(found, gpu=gpu), Setup(BATCH, 1, SIDE)))

    said = text(fast)
    assert "cuda:0           1,000,000 images/s by the loader on it" in said
    assert "1,500,000 images/s if idle CPU cores decode, too (cpu_share='auto')" in said
    assert "  device='cuda:0' with cpu_share='auto', likewise\n      1,500,000 images/s, x " in said
    assert "cpu_share" not in text(replace(fast, shared_images_per_second=1.02e6)).partition("what would")[2]
    assert "1,100,000 JPEGs/s decoded alone (engine)" in said
    assert "500,000 JPEGs/s decoded alone (gpu huffman)" in said
    assert "9,000,000 images/s by the fused launch alone" in said
    assert "1000.0 GB/s from pinned memory" in said
    assert "device='cuda:0'" in said
    assert "the limit on cuda:0 is decoding: the loader reaches 91% of what it allows" in said
    assert "decode batch on cuda:0, measured: 8: 1,000,000 images/s, 32: 2,000,000 images/s" in said
    assert "batch_size=32: x 2.00 on cuda:0" in said
    assert "batch_size=32: x" not in text(replace(fast, batches={8: 1e6, 32: 1e6}))
    assert "is the fused launch" in text(replace(fast, launch_images_per_second=1e6))
    assert "is uploading" in text(replace(fast, upload_bytes_per_second=1e6 * found.survey.bytes_per_sample))
    slow_step = judge(replace(found, gpu=fast), Setup(BATCH, 1, SIDE, step_seconds=1.0))
    assert "the limit on" not in report(slow_step)
    starved = text(replace(fast, images_per_second=1e5))
    assert "the limit on cuda:0 is the CPU" in starved
    assert "the GPU's slowest part, decoding, would allow x 11.0" in starved


def test_the_command_measures_and_advises(make_gpu, small, monkeypatch):
    make_gpu()
    monkeypatch.setattr("ffcv_gpu.cli.environment.gpus", lambda: ([], None))
    arguments = ["doctor", small.path, "--size", str(SIDE), "--batch-size", str(BATCH), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    gpu = json.loads(done.stdout)["diagnosis"]["gpu"]
    assert gpu["routes"]["jpeg: engine"] > 0 and gpu["launch_images_per_second"] > 0


def test_a_gpu_without_room_is_left_out_with_a_warning(make_gpu, small, caplog):
    make_gpu(total=1 << 20)
    assert measure_gpu(small, SETUP) is None
    assert "the doctor skips cuda:0" in caplog.text


def test_a_gpu_without_nvjpeg_is_left_out(make_gpu, small, monkeypatch):
    make_gpu()

    def missing():
        raise BackendUnavailable("nvJPEG not found")

    monkeypatch.setattr(nvjpeg_library, "library", missing)
    assert measure_gpu(small, SETUP) is None


def test_without_one_nothing_is_measured(small):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert measure_gpu(small, Setup()) is None

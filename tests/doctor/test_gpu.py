"""Measuring a GPU, on the fake one: that it is used, by the loader and for uploads, and given back."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest

from ffcv_gpu.doctor import Setup, judge, report
from ffcv_gpu.doctor.gpu import measure_gpu
from ffcv_gpu.doctor.survey import survey
from ffcv_gpu.jpeg.nvjpeg import handles
from ffcv_gpu.native import nvjpeg_library
from tests.doctor.conftest import BATCH, SIDE
from tests.fake_gpu import FakeGpu


@pytest.fixture
def gpu(monkeypatch):
    fake = FakeGpu()
    for module in ("ffcv_gpu.loader.placement", "ffcv_gpu.doctor.gpu"):
        monkeypatch.setattr(f"{module}.require_device", lambda name: None)
    for module in ("ffcv_gpu.loader.assembly", "ffcv_gpu.doctor.gpu"):
        monkeypatch.setattr(f"{module}.gpu_device", lambda name: fake.device)
    monkeypatch.setattr(nvjpeg_library, "library", fake.nvjpeg.as_library)
    monkeypatch.setattr(handles, "_known", {})
    yield fake
    gc.collect()
    fake.close()


def test_the_loader_runs_on_it(gpu, photo_file, found):
    facts = measure_gpu(survey(str(photo_file), {}), Setup(BATCH, 2, SIDE))
    assert facts.name == "cuda:0"
    assert facts.images_per_second > 0
    assert facts.upload_bytes_per_second > 0
    assert {"submit", "decode", "launch", "read"} <= set(facts.stages)
    assert set(facts.batches) == {BATCH // 4, BATCH, 4 * BATCH}
    assert facts.batches[BATCH] == facts.images_per_second
    faster = replace(facts, images_per_second=1e6, batches={8: 1e6, 32: 2e6})
    text = report(judge(replace(found, gpu=faster), Setup(BATCH, 1, SIDE)))
    assert "device='cuda:0'" in text
    assert "1,000,000 images/s" in text
    assert "decode batch on cuda:0, measured: 8: 1,000,000 images/s, 32: 2,000,000 images/s" in text
    assert "batch_size=32: x 2.00 on cuda:0" in text
    best = replace(faster, batches={8: 1e6, 32: 1e6})
    assert "batch_size=32: x" not in report(judge(replace(found, gpu=best), Setup(BATCH, 1, SIDE)))


def test_without_one_nothing_is_measured(photo_file):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert measure_gpu(survey(str(photo_file), {}), Setup()) is None

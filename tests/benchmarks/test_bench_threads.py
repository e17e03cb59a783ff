"""``threads``: decoding and resampling take the time that is asked for, in as many threads at once."""

from __future__ import annotations

import json

import pytest

from benchmarks.harness import Contender, started
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter

pytest.importorskip("torch")

SLEEPS = {"decode_us": 3000.0, "compose_us": 2000.0}


@pytest.fixture
def path(tmp_path, make_jpeg):
    jpegs = [(bytes(make_jpeg(60, 80, seed=n)), n) for n in range(8)]
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    writer = DatasetWriter(tmp_path / "jpeg.beton", fields, num_workers=1, progress=False)
    writer.from_indexed_dataset(jpegs)
    return tmp_path / "jpeg.beton"


def test_every_image_sleeps_as_long_as_asked(path):
    asked = {"workers": 2, "images": 64, **SLEEPS}
    with started(Contender("stand-in", "threads_worker.py"), 1) as (worker, _):
        worker.ask("open_loader", path=str(path), batch_size=16, **asked)
        loaded = worker.ask("epoch")
        alone = worker.ask("sleep", **asked)
    for answer in (loaded, alone):
        assert answer["images"] == 64
        assert answer["seconds"] >= 64 / 2 * 0.005  # two threads, and nothing left out


@pytest.mark.long
def test_every_number_of_threads_has_its_rows(suite, tmp_path):
    small = ["--rounds", "1", "--samples", "8", "--images", "32", "--batch-size", "16", "--threads", "1", "3"]
    places = ["--patience", "0", "--work", str(tmp_path), "--out", str(tmp_path / "out.json")]
    done = suite("threads", *small, *places)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["case"], row["name"]) for row in rows] == [
        (case, who) for case in ("1 thread", "3 threads") for who in ("the sleeps alone", "ffcv_gpu")
    ]
    assert all(row["values"]["images/s"]["median"] > 0 for row in rows)

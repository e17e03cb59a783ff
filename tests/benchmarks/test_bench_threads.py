"""``threads``: decoding and resampling take the time that is asked for, in as many threads at once."""

from __future__ import annotations

import json

import pytest

from benchmarks.harness import Contender, started

pytest.importorskip("torch")

SLEEPS = {"decode_us": 3000.0, "compose_us": 2000.0}


@pytest.mark.parametrize("backend", [pytest.param("turbo", marks=pytest.mark.long), "turbo2"])
def test_every_image_sleeps_as_long_as_asked(eight_jpegs, backend, request):
    if backend == "turbo2":
        request.getfixturevalue("libturbojpeg")
    asked = {"workers": 2, "images": 64, **SLEEPS}
    with started(Contender("stand-in", "threads_worker.py"), 1) as (worker, _):
        worker.ask("open_loader", path=str(eight_jpegs), batch_size=16, jpeg_backend=backend, **asked)
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
        (case, who)
        for case in ("1 thread", "3 threads")
        for who in ("the sleeps alone", "ffcv_gpu", "ffcv_gpu, libturbojpeg")
    ]
    assert all(row["missing"] or row["values"]["images/s"]["median"] > 0 for row in rows)

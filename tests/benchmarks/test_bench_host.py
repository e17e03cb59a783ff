"""``host``: the Loader with a stand-in for the GPU goes through every batch, and time passes as asked."""

from __future__ import annotations

import json

import pytest

from benchmarks.harness import Contender, started

pytest.importorskip("torch")


@pytest.mark.parametrize("spins", [pytest.param(False, marks=pytest.mark.long), True])
def test_engines_take_their_time(eight_jpegs, spins):
    request = {"path": str(eight_jpegs), "batch_size": 16, "workers": 1, "side": 32, "images": 64}
    with started(Contender("stand-in", "host_worker.py"), 1) as (worker, _):
        worker.ask("open_loader", **request, engine_us=2000.0, spins=spins)
        answer = worker.ask("epoch")
    assert answer["images"] == 64
    assert answer["engine_seconds_needed"] == pytest.approx(64 * 0.002)
    assert answer["seconds"] >= 64 * 0.002  # one image after the other, and nothing left out
    assert (answer["spun_seconds"] > 0) == spins
    assert answer["spun_seconds"] <= answer["cpu_seconds"]
    assert {"read", "check", "submit", "launch"} <= answer["stage_seconds"].keys()


@pytest.mark.long
def test_every_row_runs(suite, tmp_path):
    small = ["--rounds", "1", "--samples", "8", "--images", "64", "--batch-size", "16", "--side", "32"]
    places = ["--patience", "0", "--work", str(tmp_path), "--out", str(tmp_path / "out.json")]
    done = suite("host", *small, *places)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["settings"]["engine_us"] for row in rows] == [0, 45.6, 45.6, 0]
    assert all(row["values"]["images/s"]["median"] > 0 for row in rows)
    assert [("of the engines' rate" in row["values"]) for row in rows] == [False, True, True, False]

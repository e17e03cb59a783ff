"""``start`` on a tiny run: each turn is a process that made a batch."""

from __future__ import annotations

import json

import pytest


@pytest.mark.long
def test_every_start_makes_a_batch(suite, tmp_path):
    done = suite("start", "--rounds", "1", "--samples", "4", "--batch-size", "4", "--side", "32",
                 "--patience", "0", "--work", str(tmp_path), "--out", str(tmp_path / "out.json"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert "does not start" in rows["FFCV, tensors"]["missing"]
    shapes = {name: row["repeats"][0]["shape"] for name, row in rows.items() if row["repeats"]}
    assert shapes["ffcv_gpu, arrays"] == [4, 32, 32, 3]
    assert shapes["import numba"] == []
    if not rows["ffcv_gpu, tensors"]["missing"]:
        assert shapes["ffcv_gpu, tensors"] == [4, 3, 32, 32]
    for name in shapes:
        (turn,) = rows[name]["repeats"]
        assert 0 < turn["cpu_seconds"] < 60
        assert turn["seconds"] > 0
        assert rows[name]["once"]["uncounted_start_seconds"] > 0

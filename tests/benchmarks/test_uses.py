"""``uses``: its grid names what exists, both libraries get the same lines, and a run makes rows."""

from __future__ import annotations

import argparse
import json
import sys

import pytest

from benchmarks import bench_uses
from benchmarks.cli import main
from benchmarks.harness import WORKERS

CASES = list(bench_uses.GRID["cases"])


@pytest.fixture(scope="module")
def worker():
    """The workers' modules, which are scripts' neighbours and no package."""
    sys.path.insert(0, str(WORKERS))
    try:
        import uses
        import uses_data

        yield uses, uses_data
    finally:
        sys.path.remove(str(WORKERS))
        for name in ("uses", "uses_data"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("case", CASES)
def test_every_case_can_be_loaded(worker, tmp_path, case):
    uses, uses_data = worker
    settings = bench_uses.settings_of(case)
    what = bench_uses.GRID["files"][settings["file"]] | {"samples": 9}
    path = str(tmp_path / "file.beton")
    uses_data.written_by("ffcv_gpu", target=path, workers=1, **what)
    library = uses.Library("ffcv_gpu")
    order = library.loader.OrderOption[settings["order"]]
    rest = {key: settings[key] for key in ("os_cache", "drop_last")}
    pipelines = uses.PIPELINES[settings["pipeline"]](library)
    with library.loader.Loader(path, 4, 1, order=order, pipelines=pipelines, seed=0, **rest) as loader:
        assert [len(batch[0]) for batch in loader] == [4, 4] + [1] * (not settings["drop_last"])


def test_quick_is_a_part_of_full_and_a_case_is_asked_for_by_its_name():
    def asked(**options):
        return bench_uses.chosen(argparse.Namespace(**{"grid": "full", "case": None} | options))

    assert set(asked(grid="quick")) < set(asked()) == set(CASES)
    assert asked(grid="quick", case=["JSON"]) == ["JSON"]
    with pytest.raises(ValueError, match="'XML' is not known; there are CIFAR-10, converted"):
        asked(case=["XML"])


def test_fewer_samples_than_a_batch_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FFCV_GPU_FFCV_PYTHON", str(tmp_path / "no-such-python"))
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json")]
    few = ["--samples", "5", "--seconds", "0.01", "--rounds", "1", "--cores", "1"]
    assert main(["uses", "--case", "10 integers", *few, *places]) == 1
    said = capsys.readouterr().out
    assert "ffcv_gpu: ValueError: an epoch has no batch: fewer samples than one batch needs" in said
    assert "- no turn\n" in said


def test_a_run_without_ffcv_has_our_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("FFCV_GPU_FFCV_PYTHON", str(tmp_path / "no-such-python"))
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json")]
    few = ["--samples", "2048", "--seconds", "0.01", "--rounds", "1", "--cores", "1"]
    assert main(["uses", "--case", "10 integers", *few, *places]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    (turn,) = rows["ffcv_gpu"]["repeats"]
    assert turn["samples"] == 2048 * turn["epochs"] and turn["batches"] == 2 * turn["epochs"]
    assert rows["FFCV"]["missing"] and not rows["FFCV"]["failed"]

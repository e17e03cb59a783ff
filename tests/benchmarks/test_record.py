"""Results on disk: written atomically, read back unchanged, and their table."""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec

import pytest

from benchmarks.machine import commit, cpu_model, machine_facts
from benchmarks.record import Metric, Record, Row, load, save
from benchmarks.report import number, table

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("growth", "MB", "growth.rss", scale=1e-6),
]


def made():
    base = Row(
        "case", "FFCV", repeats=[{"images": 100, "seconds": s, "growth": {"rss": 2e6}} for s in (1, 2)]
    )
    own = Row("case", "own", repeats=[{"images": 300, "seconds": s, "growth": {"rss": 1e6}} for s in (1, 2)])
    gone = Row("case", "DALI", missing="not installed; python -m benchmarks setup-peer dali")
    for row in (base, own, gone):
        row.sum_up(METRICS, base)
    return Record("loader", {"side": 224}, METRICS, [base, own, gone], notes=["a note"])


def test_a_record_comes_back_as_it_was(tmp_path):
    record = made()
    save(record, tmp_path / "deep" / "result.json")
    assert load(tmp_path / "deep" / "result.json") == record
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["result.json"]


def test_a_record_keeps_every_repeat_and_the_machine(tmp_path):
    save(made(), tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    assert [len(row["repeats"]) for row in found["rows"]] == [2, 2, 0]
    assert {"cpu", "cores_usable", "python", "versions", "load_average"} <= found["machine"].keys()
    assert {"commit", "date", "settings", "schema"} <= found.keys()


def test_there_is_no_ratio_to_nothing():
    rows = [Row("case", str(n), repeats=[{"images": n, "seconds": 1}]) for n in (0, 5)]
    for row in rows:
        row.sum_up(METRICS, rows[0])
    assert rows[1].values["images/s"]["median"] == 5 and not rows[1].ratio
    assert table(Record("loader", {}, METRICS, rows))


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "result.json"
    save(made(), path)
    before = path.read_bytes()
    broken = made()
    broken.rows[0].repeats[0]["seconds"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        save(broken, path)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError, match=r"folder\.json"):
        save(made(), tmp_path / "folder.json")
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder.json", "result.json"]


@pytest.mark.parametrize(
    "text", ["", "{}", '{"schema": 99}', '{"schema": 1, "rows": [{}], "metrics": []}', "[1]"]
)
def test_what_is_no_result_is_named(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        load(path)


def test_the_table_has_every_row_and_says_what_is_missing():
    lines = table(made()).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, base, own, gone = rows
    assert len({len(row) for row in rows}) == 1
    assert head == ["case", "who", "images/s", "growth, MB", "images/s: ratio"]
    assert base[2:] == ["75 ±33%", "2 ±0%", ""]
    assert own[2:] == ["225 ±33%", "1 ±0%", "3.00 (3.00 to 3.00) x FFCV"]
    assert gone[2] == "not run"
    assert any("setup-peer dali" in line for line in lines)


def test_the_commit_is_what_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FFCV_GPU_COMMIT", "abc123")
    assert commit() == "abc123"
    monkeypatch.delenv("FFCV_GPU_COMMIT")
    monkeypatch.setattr("benchmarks.machine.ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown"


def test_the_commit_of_what_is_installed_elsewhere_is_unknown(monkeypatch, tmp_path):
    monkeypatch.delenv("FFCV_GPU_COMMIT", raising=False)
    monkeypatch.setattr("benchmarks.machine.git", lambda *_: "abc123")
    assert commit() == "abc123+changes"
    copy = ModuleSpec("ffcv_gpu", None, origin=str(tmp_path / "ffcv_gpu" / "__init__.py"))
    monkeypatch.setattr("benchmarks.machine.find_spec", lambda _: copy)
    assert commit() == "unknown"


def test_the_machine_is_described_without_its_paths():
    assert "unknown" not in cpu_model().split("(")[0]
    assert "/home" not in json.dumps(machine_facts())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0123, "0.0123"),
        (99.96, "100"),
        (999.4, "999"),
        (999.6, "1,000"),
        (-1234.5, "-1,234"),
        (1e6, "1,000,000"),
    ],
)
def test_numbers_have_no_exponent(value, words):
    assert number(value) == words

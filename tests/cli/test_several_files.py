"""Several files in one command: looked at and checked one by one, and measured as one."""

from __future__ import annotations

import json

import pytest

from ffcv_gpu.format import open_beton


@pytest.fixture
def other(small, tmp_path):
    """The small file twice, under a name of its own."""
    from ffcv_gpu.writer import merge_files

    merge_files([small, small], path := tmp_path / "other.beton")
    return path


@pytest.fixture
def bad(small, damaged):
    return damaged(int(open_beton(small).offsets("image")[3]) + 5)


def test_info_shows_each_as_alone(run, small, other):
    alone = [run("info", path).stdout for path in (small, other)]
    assert run("info", small, other).stdout == "\n".join(alone)
    one, two = (json.loads(run("info", path, "--json").stdout) for path in (small, other))
    assert json.loads(run("info", small, other, "--json").stdout) == [one, two]
    assert one["samples"] == 14


def test_verify_checks_each(run, small, other):
    result = run("verify", small, other, small)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines.count("good") == 3
    assert [line.split(": ")[1] for line in lines if line.startswith("file ")] == [
        f"{count} samples, {path.stat().st_size / 1e6:.3g} MB" for count, path in
        ((14, small), (28, other), (14, small))
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_one_that_fails_does_not_hide_the_others(run, small, tmp_path, verb):
    none, text = tmp_path / "none.beton", tmp_path / "text.beton"
    text.write_text("This is a text, and no dataset at all. " * 100)
    result = run(verb, text, none, small)
    assert result.exit_code == 2
    assert f"{small}" in result.stdout
    first, second, last = result.stderr.splitlines()
    assert first.startswith(f"ffcv-gpu: {text}: ")
    assert second == f"ffcv-gpu: cannot read {none}: No such file or directory"
    assert last == f"ffcv-gpu: 2 of 3 files failed: {text}, {none}"
    assert run(verb, text, small).exit_code == 1


def test_verify_names_the_damaged_one(run, small, bad):
    result = run("verify", small, bad, small)
    assert result.exit_code == 1
    assert "DAMAGED: 0 problems in the structure, 1 bad sample" in result.stdout
    assert result.stdout.splitlines().count("good") == 2
    assert result.stderr == f"ffcv-gpu: 1 of 3 files failed: {bad}\n"


def test_json_is_whole_or_not_there(run, small, tmp_path):
    result = run("info", small, tmp_path / "none.beton", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


OPTIONS = ("--size", "32", "--batch-size", "4", "--workers", "1", "--epochs", "1")


def test_bench_reads_them_as_one(run, small, other):
    result = run("bench", small, other, *OPTIONS, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["files"] == [str(small), str(other)]
    assert "file" not in found
    assert found["samples"] == 14 + 28
    assert sum(found["routes"].values()) == 42
    part = json.loads(run("bench", small, other, *OPTIONS, "--json", "--samples", "20").stdout)
    assert part["samples"] == 20
    alone = json.loads(run("bench", small, *OPTIONS, "--json").stdout)
    assert alone["file"] == str(small)
    assert "files" not in alone
    assert f"{small} and 1 more file: 42 of 42 samples" in run("bench", small, other, *OPTIONS).stdout


def test_bench_names_the_file_that_does_not_fit(run, small, tmp_path):
    from ffcv_gpu.fields import IntField
    from ffcv_gpu.writer import DatasetWriter

    path = tmp_path / "numbers.beton"
    DatasetWriter(path, {"label": IntField()}, progress=False).from_indexed_dataset([(1,)] * 4)
    result = run("bench", small, path, *OPTIONS)
    assert result.exit_code == 1
    assert str(path) in result.stderr and result.stderr.count("\n") == 1


def test_doctor_takes_one(run, small, other):
    result = run("doctor", small, other)
    assert result.exit_code == 2
    assert "give one that is like the others" in " ".join(run("doctor", "--help").stdout.split())

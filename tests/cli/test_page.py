"""How numbers and tables are printed."""

from __future__ import annotations

import io
import json
import os

import pytest

from ffcv_gpu.cli.page import bars, count, pairs, print_json, size, table


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_400, "999 kB"), (999_600, "1 MB"),
     (1_234_567, "1.23 MB"),
     (8 << 20, "8.39 MB"), (150e9, "150 GB"), (2.5e12, "2.5 TB"), (4.2e15, "4,200 TB")],
)  # fmt: skip
def test_sizes(number, text):
    assert size(number) == text


def test_counts():
    assert count(1, "sample") == "1 sample"
    assert count(2000, "sample") == "2,000 samples"
    assert count(0, "process", "processes") == "0 processes"


def test_pairs_are_aligned_and_none_is_left_out(capsys):
    pairs([("a", 1), ("gone", None), ("long name", "x")])
    assert capsys.readouterr().out == "a          1\nlong name  x\n"


def test_bars_show_what_is_few(capsys):
    bars([1000, 0, 1], ["a", "b", "c"], width=10)
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("#") for line in lines] == [10, 0, 1]
    assert "1,000" in lines[0]


def test_a_table_in_a_pipe_is_not_cut(capsys):
    path = "x" * 150
    table(("name", "number"), [(path, 5), ("[red]y", 77)])
    out = capsys.readouterr().out
    assert path in out
    assert "[red]y" in out  # a file's name is no markup


def test_control_characters_do_nothing(capsys):
    """A file from elsewhere may have class names that move the cursor, or pretend to be other lines."""
    name = "ant\x1b[2J\nfile  other\u202e"
    pairs([("classes", name), ("grün", "ü")])
    table(("field", "number"), [(name, 1)])
    out = capsys.readouterr().out
    assert out.count(r"ant\x1b[2J\nfile  other\u202e") == 2 and "grün     ü\n" in out
    assert all(c.isprintable() or c == "\n" for c in out)


def test_json_holds_names_that_are_not_utf_8(monkeypatch):
    """torchvision's ImageFolder names classes after folders, whose names may be in Latin-1."""
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")  # strict, unlike pytest's
    monkeypatch.setattr("sys.stdout", stdout)
    names = [os.fsdecode(b"caf\xe9"), "grün"]
    print_json({"classes": names})
    stdout.seek(0)
    text = stdout.read()
    assert json.loads(text) == {"classes": names} and "grün" in text


@pytest.mark.parametrize("wrap_last", [False, True])
def test_a_narrow_terminal_cuts_no_names(capsys, monkeypatch, wrap_last):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    name, words = "a_field_of_a_long_name", "words that may be put on several lines"
    table(("name", "number", "what"), [(name, 1_000_000, words)], wrap_last=wrap_last)
    out = capsys.readouterr().out
    assert name in out and "1000000" in out
    assert out.split()[-1] == "lines" and (words in out) is not wrap_last

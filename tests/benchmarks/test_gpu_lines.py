"""JSON lines that survive kills and garbage."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu.bench import SMALL, Bench, timed
from benchmarks.gpu.decoders import Refusal
from benchmarks.gpu.host_device import HostGpu
from benchmarks.gpu.lines import SCHEMA, append, kept_cases, last_run, runs

START = {"row": "start", "schema": SCHEMA, "experiment": "e01", "key": {"gpu": "one"}}
RESULT = {"row": "result", "case": "a", "images_per_second": 5.0}


def test_rows_come_back_by_run(tmp_path):
    path = tmp_path / "deep" / "e01.jsonl"
    for seconds in (1, 2):
        for row in (START, RESULT, {"row": "end", "status": "done", "seconds": seconds}):
            append(path, row)
    found = runs(path)
    assert [(run.name, run.status, run.end["seconds"], run.rows) for run in found] == [
        ("e01", "done", 1, [RESULT]),
        ("e01", "done", 2, [RESULT]),
    ]
    assert last_run(path) == found[-1]
    assert last_run(tmp_path / "none.jsonl") is None


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_half_a_line_costs_that_line_only(tmp_path, cut):
    path = tmp_path / "e01.jsonl"
    for row in (START, RESULT, RESULT):
        append(path, row)
    path.write_bytes(path.read_bytes()[:-cut])
    append(path, {"row": "end", "status": "crashed"})
    (run,) = runs(path)
    # Without its last byte, the end of the line, a row is still whole.
    assert (len(run.rows), run.damaged) == ((2, 0) if cut == 1 else (1, 1))
    assert run.status == "crashed"


def test_garbage_is_counted_and_passed_over(tmp_path):
    path = tmp_path / "e01.jsonl"
    append(path, START)
    with open(path, "ab") as file:
        file.write(b'\xff\xfe\n[1]\n"row"\n{"row": 5}\n{"row": "check"}\n{"row": "result"}\n\n')
    append(path, RESULT)
    (run,) = runs(path)
    assert (run.rows, run.damaged) == ([RESULT], 7)


def test_a_run_that_was_cut_off_is_not_finished(tmp_path):
    path = tmp_path / "e01.jsonl"
    append(path, START)
    append(path, RESULT)
    assert last_run(path).status == "cut off"
    assert not last_run(path).finished(START["key"])
    append(path, {"row": "end", "status": "done"})
    assert last_run(path).finished(START["key"])
    assert not last_run(path).finished({"gpu": "another"})


def test_what_is_no_json_is_not_written(tmp_path):
    path = tmp_path / "e01.jsonl"
    with pytest.raises(ValueError, match="JSON"):
        append(path, {"row": "fact", "value": float("nan")})
    assert not path.exists()


def test_runs_of_another_schema_are_passed_over(tmp_path):
    path = tmp_path / "e01.jsonl"
    append(path, {**START, "schema": SCHEMA + 1})
    append(path, RESULT)
    assert runs(path) == []
    assert json.loads(path.read_text().splitlines()[0])["schema"] == SCHEMA + 1


def test_a_run_of_another_schema_adds_nothing_to_the_run_before_it(tmp_path):
    path, end = tmp_path / "e01.jsonl", {"row": "end", "status": "done"}
    for row in (START, RESULT, end, {**START, "schema": SCHEMA + 1}, RESULT, {**end, "status": "crashed"}):
        append(path, row)
    (run,) = runs(path)
    assert (run.rows, run.status) == ([RESULT], "done")


def test_what_was_measured_before_the_time_was_over_is_kept(tmp_path):
    path, repeat = tmp_path / "e01.jsonl", {"row": "repeat", "case": "a", "images": 5.0, "seconds": 1.0}
    start, date = {**START, "date": "2030"}, {"measured": "2030"}
    for row in (
        start,
        repeat,
        RESULT,
        {**repeat, "case": "b"},
        {"row": "end", "status": "ended early"},
        start,
    ):
        append(path, row)
    kept = kept_cases(path)
    assert kept == {"a": [date | repeat, date | RESULT]}
    calls = []

    def turn():
        calls.append(1)
        return {"images": 1.0}

    bench = Bench(HostGpu(), SMALL, tmp_path, kept=kept)
    assert list(timed(bench, "a", turn)) == kept["a"]
    assert not calls
    assert [row["case"] for row in timed(bench, "b", turn)][-1] == "b"
    assert calls


def test_a_decoder_that_refuses_is_a_fact(tmp_path):
    def turn():
        raise Refusal("nvjpegDecodeBatched", 3)

    (row,) = timed(Bench(HostGpu(), SMALL, tmp_path), "a", turn)
    assert (row["row"], row["name"], row["words"]) == (
        "fact", "a: not possible", "nvjpegDecodeBatched: BAD_JPEG (3)",
    )  # fmt: skip


def test_a_run_that_measured_nothing_costs_none_of_what_was_kept(tmp_path):
    path, crashed = tmp_path / "e01.jsonl", {"row": "end", "status": "crashed"}
    first, second, third = ({**START, "date": date} for date in ("2030", "2031", "2032"))
    other = {**RESULT, "case": "b"}
    for row in (first, RESULT, crashed, second, other, crashed, third, crashed, third):
        append(path, row)
    assert kept_cases(path) == {"a": [{"measured": "2030"} | RESULT], "b": [{"measured": "2031"} | other]}


@pytest.mark.parametrize(
    ("end", "now"),
    [({"status": "done"}, START), ({"status": "ended early"}, {**START, "key": {"gpu": "two"}})],
)
def test_nothing_is_kept_of_a_finished_run_or_of_other_conditions(tmp_path, end, now):
    path = tmp_path / "e01.jsonl"
    for row in ({**START, "date": "2030"}, RESULT, {"row": "end", **end}, now):
        append(path, row)
    assert kept_cases(path) == {}

"""What the documents show of a GPU, from invented results: figures, their source, what was not run."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu.e19_share import gain
from benchmarks.gpu.headline import NOTHING, headline, section, speeds
from benchmarks.gpu.lines import append, last_run

PLACE = {"gpu": {"gpu": "NVIDIA X1", "nvjpeg": [13, 3, 2]},
         "machine": {"cpu": "a CPU", "cores_usable": 8, "python": "3.11"}}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "nvidia-x1"
    made.mkdir()
    return made


def put(folder, experiment, rows, *, commit="c0ffee1", date="2030-01-02", status="done", said=""):
    start = {"row": "start", "schema": 1, "experiment": experiment, "commit": commit, "date": date, **PLACE}
    for row in (start, *rows, {"row": "end", "status": status, "said": said}):
        append(folder / f"{experiment}.jsonl", row)


def result(case, rate, **more):
    repeats = [{"row": "repeat", "case": case, "images": rate * s, "seconds": s} for s in (1.0, 2.0)]
    return [*repeats, {"row": "result", "case": case, "images_per_second": rate, **more}]


def loader_rows():
    bare = result("bare nvJPEG, slow", 100.0, kind="pixels") + result("bare, fast", 1000.0, kind="pixels")
    more = {"kind": "batch", "cpu_us_per_image": 90.0}
    return [
        *bare,
        *result("loader, raw, all cores", 5000.0, workers=8, **more),
        *result("loader, jpeg, all cores", 500.0, workers=8, **more),
        *result("loader, jpeg, 2 cores", 700.0, workers=2, **{**more, "cpu_us_per_image": 50.0}),
    ]


def figures(folder):
    lines = headline(folder.parent, "results")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return dict(table[2:]), lines[-1]


def figure(folder, start):
    return next(value for words, value in figures(folder)[0].items() if words.startswith(start))


def test_the_loaders_best_cores_count_beside_the_fastest_bare_decoder(folder):
    put(folder, "t2_loader", loader_rows())
    assert figure(folder, "images/s of the loader") == "0.70: 700 on 2 cores, 500 on 8 cores; bare 1,000"
    assert figure(folder, "CPU time") == "50 us on 2 cores, 90 us on 8 cores"
    assert list(figures(folder)[0].values()).count(NOTHING) == len(figures(folder)[0]) - 2


def test_both_decoders_are_compared_with_the_better_one(folder):
    def rows(cores, *rates):
        cases = zip(("0", "0.2", "1", "auto"), rates, strict=True)
        return [row for share, rate in cases for row in result(f"{cores} cores, cpu_share {share}", rate)]

    found = []
    for cores, rates in ((16, (200.0, 270.0, 190.0, 300.0)), (2, (200.0, 90.0, 20.0, 190.0))):
        measured = rows(cores, *rates)
        found += [*measured, *gain([row for row in measured if row["row"] == "result"], cores)]
    assert [row["passed"] for row in found if row["row"] == "check"] == [True, False]
    put(folder, "e19_share", found)
    assert figure(folder, "the loader, GPU and idle") == "1.50 x on 16 cores, 0.95 x on 2 cores"


def test_without_both_there_is_nothing_to_compare():
    assert list(gain([], 2)) == []
    only = [row for row in result("2 cores, cpu_share auto", 1.0) if row["row"] == "result"]
    assert list(gain(only, 2)) == []


@pytest.mark.parametrize(("passed", "status", "words"), [
    (True, "done", "all right"), (True, "ended early", "all right (ended early)"),
    (False, "done", "NOT all right"),
])  # fmt: skip
def test_random_batches_are_right_only_if_all_were(folder, passed, status, words):
    rows = [
        {
            "row": "check",
            "name": "right",
            "passed": good,
            "must": True,
            "images": count,
            "bad_images_among_them": 3,
        }
        for count, good in ((1000, passed), (2000, True))
    ]
    put(folder, "c6_many", rows, status=status)
    assert figure(folder, "random batches") == f"2,000 images, 3 bad ones among them: {words}"


def test_peers_are_compared_with_what_does_the_same_work_by_their_faster_way(folder):
    facts = [("slow way", "pixels", 2.0), ("fast way", "pixels", 1.5), ("pipeline", "batch", 0.5)]
    rows = [{"row": "fact", "peer": peer, "kind": kind, "ratio": ratio} for peer, kind, ratio in facts]
    put(folder, "t3_peers-DALI", rows)
    assert figure(folder, "decode_jpegs /") == "1.5 x fast way"
    assert figure(folder, "the loader / other") == "0.5 x pipeline"


def test_training_runs_are_shown_by_preset(folder):
    put(folder, "t2_loader", [])
    runs = [
        {"settings": {"preset": 94, "seed": seed, "epochs": 2}, "test_accuracy": accuracy,
         "epochs": [{"seconds": 1.0, "wait_seconds": 0.25}, {"seconds": 2.5, "wait_seconds": 0.5}]}
        for seed, accuracy in enumerate((0.9, 0.91))
    ]  # fmt: skip
    trained = {**PLACE, "commit": "c0ffee2", "date": "2030-01-03", "runs": runs}
    (folder / "cifar10.json").write_text(json.dumps(trained))
    assert figure(folder, "CIFAR-10") == "preset 94: 90.00 % in 2.5 s, 91.00 % in 2.5 s"
    assert figures(folder)[1].endswith("commits c0ffee1, c0ffee2, 2030-01-03.")
    (row,) = (line for line in section(folder, "results") if "91.00 %" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["94", "1", "2", "91.00 %", "2.5", "0.8"]


def test_a_section_says_whose_code_what_did_not_hold_and_what_was_not_run(folder):
    missed = [
        {"row": "check", "name": f"{case}: fast enough", "passed": False, "must": False, "of_bound": bound}
        for case, bound in (("a", 0.25), ("b", 0.5))
    ]
    put(folder, "e13_kernel", missed, status="ended early", said="ended early: no time\nTimeout (0:00)")
    put(folder, "t2_loader", loader_rows(), commit="c0ffee0", date="2030-01-01")
    lines = section(folder, "results")
    assert lines[0].endswith("commits c0ffee0, c0ffee1, 2030-01-02.")
    assert [line.split("|")[3].strip() for line in lines if line.startswith("| t2_loader")] == ["c0ffee0"]
    assert "- e13_kernel: does not hold: fast enough, in 2 cases; of bound 0.25 to 0.5" in lines
    assert "- e13_kernel, ended early: no time" in lines
    (left,) = (line for line in lines if line.startswith("- not run: "))
    assert "e00_reach, " in left and "e13_kernel" not in left


def test_every_place_of_a_folders_runs_is_named(folder):
    put(folder, "t1_decode", [])
    start = last_run(folder / "t1_decode.jsonl").start
    other = start | {"experiment": "t2_loader", "gpu": start["gpu"] | {"driver": "590.1"}}
    append(folder / "t2_loader.jsonl", other)
    line = section(folder, "results")[0]
    assert "NVIDIA X1, driver ?, nvJPEG" in line and "; and NVIDIA X1, driver 590.1, nvJPEG" in line


def test_the_picture_shows_every_repeat_of_what_was_measured_twice(folder):
    put(folder, "t2_loader", loader_rows())
    put(folder, "t3_peers-DALI", result("loader, jpeg, all cores", 900.0, kind="batch", workers=8))
    shown = {row.name: row for row in speeds(folder).rows if row.case.endswith("batches")}
    assert list(shown) == ["ffcv_gpu Loader, 8 cores", "ffcv_gpu Loader, 2 cores"]
    both = shown["ffcv_gpu Loader, 8 cores"].values["images/s"]
    assert (both["min"], both["median"], both["max"]) == (500.0, 700.0, 900.0)

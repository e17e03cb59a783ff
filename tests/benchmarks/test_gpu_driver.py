"""Running the experiments: failures are isolated, complete ones are skipped, time limits are kept."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.cli import parse
from benchmarks.gpu import driver as driver_module
from benchmarks.gpu.driver import Driver, Plan, cleaned, failures, for_experiment, slug
from benchmarks.gpu.lines import append, last_run, runs
from benchmarks.gpu.peers import PARTS
from benchmarks.gpu.suite import EXPERIMENTS, PLANS, STAGES, TROUBLE, Experiment, chosen, planned, seconds_of
from benchmarks.gpu.tables import details, load, overview
from benchmarks.machine import ROOT
from tests.processes import alive, kill, within

QUICK = Experiment("e00_reach", "correctness", "which decoders can be reached", 60)


@pytest.fixture
def drive(tmp_path):
    def go(experiments, **settings):
        made = Driver(Plan(experiments, tmp_path / "out", tmp_path / "work", rehearse=True, **settings))
        made.run()
        return made

    return go


def test_a_crash_a_hang_and_garbage_cost_no_other_experiment(drive, tmp_path):
    made = drive([*TROUBLE, QUICK])
    assert list(made.outcome.values()) == ["crashed", "out of time", "done", "failed", "done"]
    assert failures(made) == []  # they failed as they should
    found = {name: last_run(tmp_path / "out" / f"{name}.jsonl") for name in made.outcome}
    for kind in ("crash", "hang", "garbage", "exception"):
        run = found[f"x_trouble-{kind}"]
        assert run.rows[0] == {"row": "fact", "name": "before", "part": kind}
        assert run.start["key"]["rehearsal"] is True
    assert "Segmentation fault" in found["x_trouble-crash"].end["said"]
    assert "x_trouble.py" in found["x_trouble-hang"].end["said"]
    assert "on purpose" in found["x_trouble-exception"].end["said"]
    assert str(ROOT) not in json.dumps([run.end for run in found.values()])
    garbage = found["x_trouble-garbage"]
    assert garbage.damaged == 4 and [row["name"] for row in garbage.rows[:2]] == ["before", "after"]
    assert found["e00_reach"].failed_checks == [] and len(found["e00_reach"].rows) > 20
    text = overview(load(tmp_path / "out"), made.outcome)
    assert text.startswith("REHEARSAL, NO GPU")
    assert all(name in text for name in made.outcome)


def test_what_takes_no_times_runs_at_once_if_asked(drive, monkeypatch):
    meeting, alone = threading.Barrier(3, timeout=30), []

    def one(self, experiment, *given):
        if experiment.stage == "peak":
            alone.append(meeting.n_waiting)
            return "done"
        meeting.wait()  # breaks unless three are here
        return "done"

    monkeypatch.setattr(Driver, "_one", one)
    stages = ("correctness", "reach and limits", "correctness", "peak", *["correctness"] * 3, "peak")
    asked = [Experiment(f"e{k}_any", stage, "any", 60) for k, stage in enumerate(stages)]
    assert set(drive(asked, jobs=3).outcome.values()) == {"done"}
    assert alone == [0, 0]
    assert parse(["gpu", "--jobs", "3"]).jobs == 3


def test_what_must_fail_and_does_not_is_a_failure(drive):
    made = drive([Experiment("x_trouble", "correctness", "a crash", 30, "garbage", "crashed")])
    assert failures(made) == ["x_trouble-garbage: done, it should be 'crashed'"]


def test_what_is_finished_is_not_run_again_unless_asked_or_changed(drive, tmp_path, monkeypatch):
    path = tmp_path / "out" / "e00_reach.jsonl"
    assert drive([QUICK]).outcome == {"e00_reach": "done"}
    assert drive([QUICK]).outcome == {"e00_reach": "done before"}
    assert len(runs(path)) == 1
    assert drive([QUICK], again=True).outcome == {"e00_reach": "done"}
    assert len(runs(path)) == 2
    monkeypatch.setattr(driver_module, "tree_digest", lambda: "other code")
    assert drive([QUICK]).outcome == {"e00_reach": "done"}
    append(path, {**last_run(path).start})  # a run that was cut off
    assert drive([QUICK]).outcome == {"e00_reach": "done"}
    assert len(runs(path)) == 5


def test_what_one_experiment_needs_is_part_of_its_key(monkeypatch, tmp_path):
    def keys():
        asked = chosen(["c5,T1,T4,E18"])
        return {e.module: for_experiment(e, {"key": {}}, tmp_path / "work")["key"] for e in asked}

    monkeypatch.setattr(driver_module, "ROOT", tmp_path)
    before, changed = keys(), []
    for name in ("tests/a/test_b.py", "examples/cifar10/train.py", "notebooks/decode_profile.ipynb",
                 "work/cifar10/train.beton"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        after = keys()
        changed.append([module for module in after if after[module] != before[module]])
        before = after
    assert changed == [["c5_tests"], ["t4_training"], ["e18_notebook"], ["t4_training"]]


def test_a_peer_that_is_installed_later_is_measured_then(monkeypatch, tmp_path):
    def keys():
        return [for_experiment(e, {"key": {}}, tmp_path)["key"] for e in chosen(["T3,T1,E14"])]

    before = keys()
    monkeypatch.setattr(driver_module, "installed", lambda name: "9" if name == "torchvision" else "")
    after = keys()  # of E14, T1, and T3's parts
    assert [old == new for old, new in zip(before, after, strict=True)] == [
        False,
        True,
        *[False] * len(PARTS),
    ]


def test_what_the_time_does_not_allow_is_left(drive, tmp_path):
    made = drive([QUICK], minutes=0.0)
    assert made.outcome == {"e00_reach": "no time left"}
    assert failures(made) == ["e00_reach: no time left"]  # correctness is not shown
    assert list((tmp_path / "out").glob("*.jsonl")) == []


def test_a_folder_has_the_results_of_one_gpu(drive, tmp_path):
    path = tmp_path / "out" / "e00_reach.jsonl"
    drive([QUICK])
    text = path.read_text()
    path.write_text(text.replace('"gpu": "rehearsal, no GPU"', '"gpu": "NVIDIA X1"'))
    with pytest.raises(RuntimeError, match="out has results of NVIDIA X1, this is rehearsal, no GPU: --out"):
        drive([QUICK])
    assert len(runs(path)) == 1


def test_a_check_that_must_hold_fails_the_run(drive, tmp_path):
    made = drive([QUICK])
    assert failures(made) == []
    path = tmp_path / "out" / "e00_reach.jsonl"
    end = last_run(path).end
    lines = path.read_text().splitlines()[:-1]
    path.write_text("\n".join(lines) + "\n")
    append(path, {"row": "check", "name": "a finding", "passed": False, "must": False})
    append(path, end)
    assert failures(made) == []
    append(path, {"row": "check", "name": "pixels", "passed": False, "must": True})
    assert failures(made) == ["e00_reach: pixels"]
    assert "FAILED: pixels" in overview(load(path))
    assert "does not hold: pixels" in details(last_run(path))


def test_the_command_says_by_its_status_whether_all_is_well(suite, tmp_path):
    places = ("--work", str(tmp_path), "--out", str(tmp_path / "out"), "--rehearse")
    done = suite("gpu", "--only", "E0,x_trouble-crash", *places)
    assert done.returncode == 0, done.stderr
    assert "| e00_reach" in done.stdout and "crashed" in done.stdout
    shown = suite("show", str(tmp_path / "out"))
    assert "a hardware engine can be used" in shown.stdout
    only = suite("show", str(tmp_path / "out" / "e00_reach.jsonl"))
    assert "x_trouble" not in only.stdout
    late = suite("gpu", "--only", "E0", "--again", "--minutes", "0", *places)
    assert late.returncode == 1
    assert "FAILED: e00_reach: no time left" in late.stderr
    assert last_run(tmp_path / "out" / "e00_reach.jsonl").start["commit"] == "c0ffee"


def test_without_a_gpu_there_is_one_sentence(suite, tmp_path):
    from ffcv_gpu.native import driver

    if driver.driver_version():
        pytest.skip("there may be a GPU")
    done = suite("gpu", "--only", "E0", "--work", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no GPU to run on (failed; RuntimeError: torch 2" in line
    assert line.endswith("--rehearse needs none")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_photographs_is_refused_before_the_experiments(suite, tmp_path):
    (tmp_path / "empty").mkdir()
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    done = suite("gpu", "--rehearse", "--only", "T1", "--data", str(tmp_path / "empty"), *places)
    assert done.returncode == 1
    assert done.stderr.startswith("python -m benchmarks gpu: --data") and "no file ending" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_rehearsal_is_never_written_among_the_results():
    before = sorted((ROOT / "benchmarks" / "results").rglob("*"))
    arguments = parse(["gpu", "--rehearse", "--list"])
    assert arguments.out is None and arguments.work.name == "bench-output"
    assert sorted((ROOT / "benchmarks" / "results").rglob("*")) == before


def test_the_list_is_in_the_order_of_its_stages():
    order = [STAGES.index(experiment.stage) for experiment in EXPERIMENTS]
    assert order == sorted(order)
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)
    files = {path.stem for path in (ROOT / "benchmarks" / "gpu").glob("[ect][0-9]*_*.py")}
    assert {experiment.module for experiment in EXPERIMENTS} == files


def test_a_plan_is_in_its_own_order_and_fits_two_calls_of_seven_minutes(suite):
    for name, plan in PLANS.items():
        experiments = planned(chosen(), name)
        assert [experiment.name for experiment in experiments] == list(plan)
        assert all(plan[experiment.name] <= experiment.seconds for experiment in experiments)
        assert seconds_of(experiments, name, jobs=6) < 2 * 7 * 60
    done = suite("gpu", "--plan", "second", "--only", "T2,c1,c3", "--list", "--jobs", "2")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "c3_errors", "c1_parity", "t2_loader", "about"
    ]  # fmt: skip
    assert done.stdout.endswith("about 50 s, with --brief --jobs 2\n")


@pytest.mark.parametrize(
    ("words", "modules"),
    [
        (["E1"], {"e01_kinds"}),
        (["E3,E13"], {"e03_engine", "e13_kernel"}),
        (["c1_parity", "t2"], {"c1_parity", "t2_loader"}),
        (["e09_errors-png"], {"e09_errors"}),
    ],
)
def test_experiments_are_chosen_by_their_names(words, modules):
    assert {experiment.module for experiment in chosen(words)} == modules


def test_an_unknown_name_is_a_sentence(suite):
    done = suite("gpu", "--only", "E99", "--rehearse")
    assert done.returncode == 1
    assert "--only E99: no such experiment" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_that_leaves_others_behind_takes_them_along(tmp_path):
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    assert driver_module.waited(process, 120) == "done"
    pid = int((tmp_path / "pid").read_text())
    within(lambda: not alive(pid))


@pytest.fixture
def hanging(tmp_path):
    """A started run of two experiments, of which one hangs; `find` lists their processes.

    The driver has many files open: a shell takes only one digit in ``<&9``.
    """
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    only = ["--only", "x_trouble-hang,x_trouble-exception", "--jobs", "2"]
    start = "files = [open('/dev/null') for _ in range(20)]; import runpy; "
    start += "runpy.run_module('benchmarks', run_name='__main__')"
    command = [sys.executable, "-c", start, "gpu", "--rehearse", *only, *places]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as driver:
        driver.find = lambda: processes_of(str(tmp_path / "work"))
        driver.results = tmp_path / "out" / "x_trouble-hang.jsonl"
        # the file may be there before its first line
        within(lambda: (run := last_run(driver.results)) is not None and run.rows)
        yield driver
        driver.kill()
        for pid in driver.find():
            kill(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_experiments_end_with_a_driver_that_is_killed(hanging, number):
    assert hanging.find()
    hanging.send_signal(number)
    hanging.wait()
    within(lambda: not hanging.find())
    assert last_run(hanging.results).status == "cut off"


def test_an_interrupt_waits_for_no_experiment(hanging):
    hanging.send_signal(signal.SIGINT)
    words = hanging.communicate()[1].decode()
    assert hanging.returncode == 130 and "what was measured is kept" in words
    # not "out of time", as after its time limit
    assert last_run(hanging.results).status == "cut off"
    within(lambda: not hanging.find())


def processes_of(word):
    """Return the ids of the experiments' processes whose command line has a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace")
            if "gpu-child" in words and word in words and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


def test_what_a_process_says_is_cleaned_of_paths(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/opt/env")
    words = cleaned(f'File "{ROOT}/benchmarks/x.py"\x00\x1b[1m in /opt/env/lib')
    assert words == 'File "./benchmarks/x.py"[1m in <python>/lib'


def test_names_of_gpus_become_folders():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"

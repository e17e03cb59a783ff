"""Every experiment, small, on host memory and a fake nvJPEG: its control flow, and that it finds mistakes."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from benchmarks.gpu import (
    e06_both,
    e08_device,
    e10_cores,
    e15_mixture,
    headline,
    t2_loader,
    t3_peers,
    t4_training,
)
from benchmarks.gpu.bench import SMALL, Bench, summed
from benchmarks.gpu.c5_tests import report_of
from benchmarks.gpu.c5_tests import rows as rows_of_report
from benchmarks.gpu.decoders import BACKENDS, Handle
from benchmarks.gpu.driver import Plan, start_row
from benchmarks.gpu.e03_engine import fitted
from benchmarks.gpu.host_device import HostGpu
from benchmarks.gpu.lines import append
from benchmarks.gpu.peers import PARTS
from benchmarks.gpu.speed import Lane, lanes_of
from benchmarks.gpu.suite import EXPERIMENTS
from benchmarks.gpu.torch_device import TorchGpu
from benchmarks.gpu.variants import encode
from benchmarks.machine import ROOT
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status


@pytest.fixture
def interrupts():
    """``interrupts(handler)``: what is done at SIGINT, until the end of the test."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_gpu():
    made = []

    def make(**settings):
        made.append(HostGpu(**settings))
        return made[-1]

    yield make
    gc.collect()
    for gpu in made:
        gpu.close()


def rows_of(experiment, gpu, folder):
    module = importlib.import_module(f"benchmarks.gpu.{experiment.module}")
    return list(module.run(Bench(gpu, SMALL, folder, part=experiment.part)))


#: only one part of the peers: a rehearsal has the same stand-ins in each
DIFFERENT = [e for e in EXPERIMENTS if e.module != "t3_peers" or e.part == PARTS[0]]
#: they train, compile, or run what has its own tests
SLOW = ("t4_training", "e17_doctor", "e18_notebook", "c4_ordering", "e01_kinds", "e04_decoupled", "e12_sizes",
        "e13_kernel", "c5_tests")  # fmt: skip
#: lines of the README's table that an experiment fills
PROMISED = {"c1_parity": [0], "c6_many": [1], "t2_loader": [2, 3], "e19_share": [4], "e13_kernel": [5],
            "t3_peers": [6, 7], "t4_training": [8]}  # fmt: skip


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(e, id=e.name, marks=[pytest.mark.long] if e.module in SLOW else []) for e in DIFFERENT],
)
def test_an_experiment_runs_through(experiment, make_gpu, tmp_path, tmp_path_factory):
    gpu = make_gpu()
    found = rows_of(experiment, gpu, tmp_path_factory.getbasetemp() / "gpu-files")
    assert found or experiment.part == "others"
    assert [row for row in found if row["row"] == "check" and row["must"] and not row["passed"]] == []
    assert gpu.mistakes() == []
    assert [row for row in found if row.get("name", "").endswith("not possible")] == []
    shown_in_documents(experiment, found, gpu, tmp_path)


def shown_in_documents(experiment, found, gpu, results):
    """Make tables and pictures from the rows, as the driver writes them."""
    start = start_row(Plan([experiment], None, results, rehearse=True), gpu.facts())
    start |= {"row": "start", "experiment": experiment.name, "date": "2030-01-01"}
    for row in (start, *found, {"row": "end", "status": "done", "seconds": 1.0}):
        append(results / "a-gpu" / f"{experiment.name}.jsonl", row)
    lines = [line for line in headline.headline(results, "results") if line.startswith("|")][2:]
    filled = [number for number, line in enumerate(lines) if headline.NOTHING not in line]
    assert filled == PROMISED.get(experiment.module, [])
    assert f"| {experiment.name} " in "\n".join(headline.section(results / "a-gpu", "results"))
    drawn = {row.name for row in headline.speeds(results / "a-gpu").rows if row.values["images/s"]["median"]}
    loader = f"ffcv_gpu Loader, {len(os.sched_getaffinity(0))} cores"
    if experiment.module == "t1_decode":
        assert {"ffcv_gpu decode_jpegs", "bare nvJPEG, hardware, 2 states"} < drawn
    elif experiment.module == "t2_loader":
        assert {loader, "bare nvJPEG, hardware, 2 states"} < drawn
    elif experiment.module == "t3_peers":
        ours = {"ffcv_gpu decode_jpegs", loader, f"{loader}, cpu_share auto"}
        assert drawn == {*ours, "stand-in, pixels", "stand-in, batch"}
        repeats = [row for row in found if row["row"] == "repeat"]
        once, twice = (
            {row["images"] for row in repeats if row["case"] == f"stand-in, {kind}"}
            for kind in ("pixels", "batch")
        )
        assert twice == {2 * count for count in once}  # it passes over the files twice
    else:
        assert not drawn


def named(name):
    return next(experiment for experiment in EXPERIMENTS if experiment.name == name)


def failed(found, *words):
    return [row["name"] for row in found if row["row"] == "check" and not row["passed"]
            and all(word in row["name"] for word in words)]  # fmt: skip


def test_an_engine_that_overtakes_its_stream_is_found_out(tmp_path):
    found = rows_of(named("e02_order"), HostGpu(), tmp_path)
    assert failed(found) == ["hardware waits for earlier work of its stream before it writes"]
    kind = HostGpu()
    kind.fake.engine_overtakes = False
    assert failed(rows_of(named("e02_order"), kind, tmp_path)) == []


@pytest.mark.parametrize("backend", ["hardware", "gpu_hybrid"])
def test_images_that_are_skipped_in_silence_are_found_out(tmp_path, backend):
    gpu = HostGpu()
    third = encode(Bench(gpu, SMALL, tmp_path).images(3)[2])
    gpu.fake.skip_image(third, backends=[BACKENDS[backend]])
    found = rows_of(named("e09_errors-scan_cut"), gpu, tmp_path)
    assert failed(found, backend)


def test_wrong_pixels_are_found_out(tmp_path, monkeypatch):
    from benchmarks.gpu import e01_kinds

    def dull(image, wanted):
        return [plane // 2 for plane in image]

    monkeypatch.setattr(e01_kinds, "OUTPUTS", ("rgbi",))
    real = e01_kinds.difference
    monkeypatch.setattr(e01_kinds, "difference", lambda found, wanted: real(dull(found, wanted), wanted))
    assert failed(rows_of(named("e01_kinds"), HostGpu(), tmp_path), "libjpeg-turbo")


def test_without_engines_the_rest_is_measured(tmp_path):
    for name in ("e00_reach", "e02_order", "e03_engine", "e06_both", "e08_device", "e10_cores", "e12_sizes"):
        gpu = HostGpu(engines=0)
        found = rows_of(named(name), gpu, tmp_path)
        assert failed([row for row in found if row.get("must")]) == []
        assert gpu.mistakes() == []
        if name in ("e06_both", "e08_device", "e10_cores"):
            assert any(row["row"] == "result" for row in found)


@pytest.mark.parametrize(
    ("call", "experiment", "measured"),
    [
        ("nvjpegDecodeBatchedPreAllocate", "e03_engine", "three states, one thread, batch 4"),
        ("nvjpegDecodeBatchedPreAllocate", "e15_mixture", "mixed, yuv, sorted"),
        ("nvjpegDecodeBatchedInitialize", "e05_gpu_huffman", "natural, one by one, hybrid, 1 threads"),
        ("nvjpegDecodeBatchedEx", "e07_roi", "yuv, flags 32, whole"),
        ("nvjpegDecodeParamsSetScaleFactor", "e07_roi", "rgbi, flags 32, rectangles"),
    ],
)
def test_what_nvjpeg_refuses_costs_no_other_case(call, experiment, measured, tmp_path):
    gpu = HostGpu()
    gpu.fake.fail(call, Status.NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED, times=None)
    found = rows_of(named(experiment), gpu, tmp_path)
    assert measured in [row["case"] for row in found if row["row"] == "result"]
    refused = [row for row in found if row.get("name", "").endswith("not possible")]
    assert refused and all("NOT_SUPPORTED" in row["words"] for row in refused if "words" in row)


@pytest.mark.parametrize("experiment", ["e06_both", "e15_mixture"])
def test_an_experiment_whose_every_batch_is_refused_runs_through(experiment, tmp_path):
    gpu = HostGpu()
    gpu.fake.fail("nvjpegDecodeBatched", Status.NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED, times=None)
    found = rows_of(named(experiment), gpu, tmp_path)
    assert [row for row in found if row["row"] == "result"] == []
    assert len([row for row in found if row.get("name", "").endswith("not possible")]) > 1


def test_alike_and_unlike_images_are_timed_in_batches_of_one_size(tmp_path):
    bench = Bench(HostGpu(), replace(SMALL, batch=20), tmp_path)
    found = e15_mixture._one_size(bench, {"plain": Handle(bench.gpu.library(), "hardware")})
    assert {row["images"] for row in found if row["row"] == "repeat"} == {2 * 20}


def test_pixels_are_compared_although_their_times_were_kept(tmp_path):
    """Memory that nothing was decoded into differs."""
    names = ("hardware, bytes on the host", "hardware_device, bytes on the GPU")
    kept = {name: [{"row": "result", "case": name, "images_per_second": 1.0}] for name in names}
    gpu = HostGpu()
    blank = iter(range(10**6))
    real = gpu.memory

    def memory(size):
        made = real(size)
        made.array[:] = next(blank) % 251
        return made

    gpu.memory = memory
    found = list(e08_device.run(Bench(gpu, SMALL, tmp_path, kept=kept)))
    assert [row["passed"] for row in found if row["row"] == "check"] == [True, True]


@pytest.mark.long
def test_the_kernel_is_compared_by_the_time_of_the_gpu_alone(tmp_path, monkeypatch):
    gpu = HostGpu()
    monkeypatch.setattr(gpu, "span", lambda work, stream: 2 * 123e-6)  # for the two launches of a rehearsal
    checks = [row for row in rows_of(named("e13_kernel"), gpu, tmp_path) if "of_bound" in row]
    assert checks and {row["microseconds"] for row in checks} == {123.0}
    gpu.close()


@pytest.mark.parametrize("late", [False, True])
def test_a_span_begins_when_all_is_submitted(late):
    """On the real GPU's class, with a stand-in for torch.cuda."""
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            done.append(("record", stream))

        def query(self):
            done.append("query")
            return late

        def synchronize(self):
            done.append("wait")

        def elapsed_time(self, end):
            return 4.0

    gpu = object.__new__(TorchGpu)
    gpu._cuda = SimpleNamespace(Event=Event, ExternalStream=lambda handle, device: handle)
    gpu._device = "cuda:0"
    gpu.spin = lambda milliseconds, stream: done.append(("spin", stream))
    if late:  # the stream ran empty meanwhile: some of the host's time would count
        with pytest.raises(RuntimeError, match="ran empty"):
            gpu.span(lambda: done.append("work"), 7)
    else:
        assert gpu.span(lambda: done.append("work"), 7) == 0.004
    assert done == [("spin", 7), ("record", 7), "work", "query", ("record", 7), "wait"]


def test_memory_that_grows_is_found_out(tmp_path, monkeypatch):
    from benchmarks.gpu import e11_memory

    monkeypatch.setattr(e11_memory, "BACKENDS", ("hardware",))
    gpu = HostGpu()
    free = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(gpu, "free_bytes", lambda: next(free))
    assert failed(rows_of(named("e11_memory"), gpu, tmp_path), "free memory stays")


class Steps:
    """A clock that short steps move on, and a decoder that takes 128 of them for a batch."""

    now, due, batches = 0.0, 0.0, 0

    def __init__(self):
        self.over = threading.Event()  # which the experiment sets: there are no more steps

    def step(self):
        while self.batches and self.due <= self.now:  # the decoder has yet to wake up
            time.sleep(1e-5)
        self.now += 1 / 8192

    def start(self):
        self.batches += 1
        if self.batches > 2:  # before that, no step is made
            self.due = max(self.due, self.now) + 128 / 8192
            while self.now < self.due and not self.over.is_set():
                time.sleep(1e-5)


def test_a_decoder_beside_a_load_has_its_rate_however_short_the_steps(tmp_path, monkeypatch):
    bench = Bench(HostGpu(), replace(SMALL, seconds=0.125), tmp_path)
    lanes, steps = lanes_of(bench, Handle(bench.gpu.library(), "hardware"), bench.rotation(4)), Steps()
    clock = SimpleNamespace(perf_counter=lambda: steps.now, sleep=time.sleep)
    monkeypatch.setattr(e06_both, "time", clock)
    monkeypatch.setattr(e06_both, "threading", SimpleNamespace(Event=lambda: steps.over))
    monkeypatch.setattr(Lane, "start", lambda lane, job: steps.start())
    bench.gpu.load = lambda: steps.step
    _, beside = e06_both._beside(bench, {"engine": lanes})
    assert beside["images_per_second"] == pytest.approx(4 * 8192 / 128, rel=0.2)


def test_a_part_on_few_cores_runs_on_them_and_says_so(tmp_path, monkeypatch):
    def told(bench, part, where):
        yield part, where, len(os.sched_getaffinity(0))

    monkeypatch.setattr(t3_peers, "_measured", told)
    before = os.sched_getaffinity(0)
    few, every = (
        list(t3_peers.run(Bench(HostGpu(), SMALL, tmp_path, part=part)))
        for part in ("DALI pipeline on 1 cores", "DALI pipeline")
    )
    assert few == [("DALI pipeline", ", 1 cores", 1)]
    assert every == [("DALI pipeline", "", len(before))]
    assert os.sched_getaffinity(0) == before


def test_threads_started_on_few_cores_may_use_all_of_them_later():
    usable, done, found = os.sched_getaffinity(0), threading.Event(), []

    def work():
        done.wait()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    with e10_cores.on_cores([min(usable)]):
        thread.start()
    done.set()
    thread.join()
    assert found == [usable]


def test_a_rehearsal_leaves_the_real_cifar10_alone(tmp_path, monkeypatch):
    example = SimpleNamespace(parse=list, choose=list, train=lambda options: {"folder": options[0]})
    monkeypatch.setitem(sys.modules, "train", example)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train.beton").write_bytes(b"downloaded")
    row = next(iter(t4_training.run(Bench(HostGpu(), SMALL, tmp_path))))
    assert row["folder"] == str(tmp_path / "cifar10-rehearsal")
    assert (tmp_path / "cifar10" / "train.beton").read_bytes() == b"downloaded"


def test_the_loaders_promises_are_beside_its_fastest_cores():
    rates = {16: 11_566, 2: 12_377, 4: 14_075}
    ours = [
        {"workers": n, "images_per_second": rate, "cpu_us_per_image": 10 * n} for n, rate in rates.items()
    ]
    found = list(t2_loader.promises(ours, 21_944.0))
    assert [(row["passed"], row.get("cores")) for row in found] == [(False, 4), (True, 4), (False, None)]
    assert (found[0]["of_bare"], found[1]["cpu_us"], found[2]["ratio"]) == (0.641, 40, 0.879)
    assert list(t2_loader.promises([], 1.0)) == []


def test_repeats_are_summed_up():
    repeats = [
        {"images": 100.0, "seconds": s, "cpu_seconds": 0.01, "megapixels": 20.0} for s in (1.0, 2.0, 4.0)
    ]
    found = summed(repeats)
    assert found["images_per_second"] == 50
    assert found["cpu_us_per_image"] == 100
    assert found["p95_over_median"] == pytest.approx(3.8 / 2)
    assert found["gigapixels_per_second"] == pytest.approx(60 / 7 / 1000, abs=1e-3)
    assert "share_in_calls" not in found


def test_the_cost_of_an_image_is_fitted():
    points = [
        (0.4 + 0.5 * mp + 2.0 * mb, mp, mb) for mp, mb in ((0.1, 0.02), (0.2, 0.1), (2, 0.3), (8, 1), (8, 3))
    ]
    found = fitted(points)
    assert [found[key] for key in ("constant", "by_megapixel", "by_megabyte")] == pytest.approx(
        [0.4, 0.5, 2.0]
    )
    assert found["unexplained"] < 1e-9
    assert "constant" not in fitted(points[:3])


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="good"/>
<testcase classname="tests.a" name="bad"><failure message="wrong pixels">long</failure></testcase>
<testcase classname="tests.a" name="absent"><skipped message="no CUDA"/></testcase>
</testsuite></testsuites>"""


def test_a_skipped_gpu_test_is_a_failure():
    found = rows_of_report(REPORT)
    assert [(row["name"], row["passed"]) for row in found] == [
        ("tests.a::bad", False),
        ("tests.a::absent", False),
        ("every test that needs a GPU passes", False),
    ]
    assert (found[-1]["passed_tests"], found[-1]["of"]) == (1, 3)
    assert rows_of_report(REPORT.replace("<failure", "<system-out").replace("</failure", "</system-out")
                     .replace("<skipped", "<system-out"))[-1]["passed"]  # fmt: skip
    assert not rows_of_report("<testsuites/>")[-1]["passed"]


@pytest.mark.parametrize(
    "handler", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"]
)
def test_a_gpu_test_that_hangs_costs_no_other_result(tmp_path, interrupts, handler):
    interrupts(handler)
    ready = tmp_path / "ready"
    lines = ["import pathlib, time", "def test_good(): pass", "def test_bad(): assert 0", "def test_hangs():",
             f"    pathlib.Path({str(ready)!r}).touch()", "    time.sleep(60)"]  # fmt: skip
    (tmp_path / "test_some.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_some.py"]
    seconds = 1.0
    while not ready.exists():  # a slow machine may need more than a second until then
        found = list(report_of(command, seconds, cwd=tmp_path, stdout=subprocess.DEVNULL))
        seconds *= 2
    assert [(row["name"], row["passed"]) for row in found] == [
        ("pytest ends in time", False),
        ("test_some::test_bad", False),
        ("every test that needs a GPU passes", False),
    ]


@pytest.mark.long
@pytest.mark.timeout(700)
def test_make_gpu_from_a_copied_tree_without_git_and_without_an_index(tmp_path):
    tree, wheels = tmp_path / "tree", tmp_path / "wheels"
    leave = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "bench-output", ".carry", ".mypy_cache",
                                   ".pytest_cache", ".ruff_cache", "*.egg-info", "demo-output")  # fmt: skip
    shutil.copytree(ROOT, tree, ignore=leave)
    wheels.mkdir()
    environment = {
        key: value for key, value in os.environ.items() if key not in ("FFCV_GPU_COMMIT", "PYTHONPATH")
    }
    environment["PIP_CONFIG_FILE"] = os.devnull
    environment = {key: value for key, value in environment.items() if not key.startswith("MAKE")}
    command = ["make", "gpu", f"PY={sys.executable}", f"WHEELS={wheels}", "VENV_ARGS=--system-site-packages",
               "ARGS=--rehearse --minutes 8"]  # fmt: skip
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "commit unknown" in done.stdout
    rehearsal = tree / "bench-output" / "rehearsal"
    names = {path.stem for path in rehearsal.glob("*.jsonl")}
    assert {experiment.name for experiment in EXPERIMENTS} < names
    assert sorted(path.name for path in (tree / "benchmarks" / "results").iterdir()) == sorted(
        path.name for path in (ROOT / "benchmarks" / "results").iterdir()
    )
    shutil.copytree(rehearsal, tree / "benchmarks" / "results" / "rehearsal")
    command = [str(tree / ".venv" / "bin" / "python"), "-m", "benchmarks", "tables"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    table = (tree / "README.md").read_text().partition("<!-- table: gpu headline -->")[2].partition("<!--")[0]
    # a column more, the last one, in which nothing is missing
    head, _, *cells = [line.split("|")[-2].strip() for line in table.splitlines() if line.startswith("|")]
    assert head == "rehearsal, no GPU" and len(cells) == len(headline.FIGURES)
    assert headline.NOTHING not in cells
    assert "THE NUMBERS MEAN NOTHING" in (tree / "benchmarks" / "RESULTS.md").read_text()

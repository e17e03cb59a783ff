"""Runs the experiments, each in a process with a time limit; a failure does not stop the others.

Results are appended to one file per experiment. What is complete under the same conditions (GPU, driver,
libraries, code, photographs) is skipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.forecast import say
from benchmarks.gpu.child import CUT_SHORT, RESULTS
from benchmarks.gpu.lines import SCHEMA, append, last_run
from benchmarks.gpu.peers import DISTRIBUTIONS
from benchmarks.gpu.suite import UNTIMED, Experiment
from benchmarks.gpu.t4_training import FOLDER as CIFAR10
from benchmarks.machine import ROOT, commit, installed, machine_facts, now

__all__ = ["Driver", "Plan", "failures", "start_row", "tree_digest"]

LIBRARIES = ("cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "nvidia-nvjpeg", "nvidia-nvjpeg-cu12")
#: experiments that depend on which other libraries are installed; E14 uses networks of torchvision
BESIDE = ("t3_peers", "e14_loader")
#: files that a single experiment depends on, beside the common code
FILES = {
    "c5_tests": "tests/**/*.py",
    "t4_training": "examples/cifar10/*.py",
    "e18_notebook": "notebooks/decode_profile.ipynb",
}
#: an experiment is not started with less time than this
LEAST_SECONDS = 15
WORDS = 2000


@dataclass(frozen=True)
class Plan:
    """What to run, and how.

    Attributes
    ----------
    experiments
    out
        folder of the results; None: ``benchmarks/results/<GPU>``
    work
        folder for temporary files
    data
        folder of JPEGs
    minutes
        for all experiments
    again
        also run what is complete
    rehearse
        run without a GPU
    brief
        fewer cases and repeats
    jobs
        number of concurrent experiments, among consecutive ones that measure no times
    """

    experiments: Sequence[Experiment]
    out: Path | None
    work: Path
    data: Path | None = None
    minutes: float = 60.0
    again: bool = False
    rehearse: bool = False
    brief: bool = False
    jobs: int = 1


@dataclass
class Driver:
    """One run of a plan. `outcome`: the status of each experiment."""

    plan: Plan
    outcome: dict[str, str] = field(default_factory=dict)
    out: Path = Path()
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, init=False, repr=False)
    _stopped: bool = field(default=False, init=False, repr=False)

    def run(self) -> None:
        """Run the plan.

        Raises
        ------
        RuntimeError
            If no GPU is usable; the message is that of the attempt. If the folder has results of another GPU.
        """
        end = time.monotonic() + 60 * self.plan.minutes
        facts = self._facts()
        self.out = self.plan.out or ROOT / "benchmarks" / "results" / slug(str(facts["gpu"]))
        if others := gpus_of(self.out) - {facts["gpu"]}:
            words = f"{self.out} has results of {', '.join(sorted(others))}, this is {facts['gpu']}"
            raise RuntimeError(f"{words}: --out must name another folder")
        common = start_row(self.plan, facts)
        with ThreadPoolExecutor(self.plan.jobs) as pool:
            try:
                for untimed, group in itertools.groupby(self.plan.experiments, lambda e: e.stage in UNTIMED):
                    each = pool.map if untimed and self.plan.jobs > 1 else map
                    list(each(lambda experiment: self._consider(experiment, common, end), group))
            except BaseException:
                self._stop()  # the pool would wait for what runs
                raise

    def _stop(self) -> None:
        """Kill the experiments that run; the others are not started."""
        self._stopped = True
        for process in list(self._running):
            kill_session(process)

    def _consider(self, experiment: Experiment, common: dict[str, Any], end: float) -> None:
        """Run an experiment, unless it is complete or there is no time left."""
        name = experiment.name
        path = self.out / f"{name}.jsonl"
        start, done = for_experiment(experiment, common, self.plan.work), last_run(path)
        names = [each.name for each in self.plan.experiments]
        say(f"[{names.index(name) + 1}/{len(names)}] {name}: {experiment.question}")
        left = end - time.monotonic()
        if self._stopped:
            return
        if done is not None and done.finished(start["key"]) and not self.plan.again:
            self.outcome[name] = "done before"
        elif left < min(LEAST_SECONDS, experiment.seconds):
            self.outcome[name] = "no time left"
        else:
            self.outcome[name] = self._one(experiment, path, start, left)
        say(f"    {name}: {self.outcome[name]}")

    def _one(self, experiment: Experiment, path: Path, start: Mapping[str, Any], left: float) -> str:
        seconds = min(experiment.seconds, left)
        row = {"row": "start", "experiment": experiment.name, **start, "date": now()}
        append(path, row)
        begun = time.monotonic()
        status, words = self._process(experiment.module, experiment.part, path, seconds)
        if self._stopped:
            return "cut off"
        ended = {"row": "end", "status": status, "seconds": round(time.monotonic() - begun, 1)}
        append(path, ended | ({"said": cleaned(words)} if status != "done" else {}))
        return status

    def _process(self, module: str, part: str, path: Path, seconds: float) -> tuple[str, str]:
        """Run one process; return its status, and the end of its output."""
        plan = self.plan
        data = str(plan.data.resolve()) if plan.data else ""
        environment = {**os.environ, RESULTS: str(path.resolve())}
        with tempfile.TemporaryFile() as output, alive() as pipe:
            asked = {"module": module, "part": part, "seconds": seconds, "rehearse": plan.rehearse,
                     "brief": plan.brief, "again": plan.again, "work": str(plan.work.resolve()),
                     "data": data, "alive": pipe}  # fmt: skip
            command = [sys.executable, "-m", "benchmarks", "gpu-child", json.dumps(asked)]
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, pass_fds=(pipe,),
            )  # fmt: skip
            self._running.add(process)
            status = waited(process, seconds)
            self._running.discard(process)
            output.seek(max(output.seek(0, 2) - 20 * WORDS, 0))
            return status, output.read().decode("utf-8", "replace")[-WORDS:]

    def _facts(self) -> dict[str, Any]:
        """Describe the GPU, in a separate process, so that this one never holds it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "facts.jsonl")
            status, words = self._process("facts", "", path, 120)
            if status != "done":
                last = (cleaned(words).splitlines() or ["no output"])[-1]
                raise RuntimeError(f"no GPU to run on ({status}; {last}); --rehearse needs none")
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        del facts["row"]
        return facts


def start_row(plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row that every run begins with; ``key`` is what a result depends on."""
    machine = machine_facts()
    machine["versions"] |= {name: found for name in LIBRARIES if (found := installed(name))}
    same = ("gpu", "driver", "driver_cuda", "nvjpeg", "nvjpeg_origin")
    key = {
        **{name: facts[name] for name in same if name in facts},
        "versions": machine["versions"],
        "cores": machine["cores_usable"],
        "code": tree_digest(),
        "data": folder_digest(plan.data),
        "rehearsal": plan.rehearse,
        "brief": plan.brief,
    }
    label = {"rehearsal": "rehearsal, no GPU: the numbers mean nothing"} if plan.rehearse else {}
    return {"schema": SCHEMA, **label, "key": key, "gpu": dict(facts), "machine": machine, "commit": commit()}


def for_experiment(experiment: Experiment, start: dict[str, Any], work: Path) -> dict[str, Any]:
    """Return the row for one experiment: some also depend on other libraries or files."""
    key = dict(start["key"])
    if experiment.module in BESIDE:
        key["beside"] = {name: found for name in DISTRIBUTIONS if (found := installed(name))}
    if experiment.module in FILES:
        key["files"] = tree_digest(FILES[experiment.module])
    if experiment.module == "t4_training":
        key["cifar10"] = folder_digest(work / CIFAR10)
    return {**start, "key": key}


@contextlib.contextmanager
def alive() -> Iterator[int]:
    """Yield the end of a pipe, for a process to read: the pipe ends when this process does, or leaves."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def waited(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait up to `seconds` for the leader of a session; kill the session; return the leader's status."""
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill_session(process)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the driver: abandon it
            process.wait(timeout=10)
        return "out of time"
    except BaseException:
        kill_session(process)
        raise
    kill_session(process)  # its remaining children
    if code < 0:
        return "crashed"
    return {0: "done", CUT_SHORT: "ended early"}.get(code, "failed")


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill the leader of a session and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def failures(driver: Driver) -> list[str]:
    """Return what makes the run a failure: correctness not shown, or a check that must hold and does not."""
    found = []
    for experiment in driver.plan.experiments:
        status = driver.outcome.get(experiment.name, "not run")
        if experiment.expected != "done" or experiment.module == "x_trouble":
            if status not in (experiment.expected, "done before"):
                found.append(f"{experiment.name}: {status}, it should be {experiment.expected!r}")
            continue
        run = last_run(driver.out / f"{experiment.name}.jsonl")
        if experiment.stage == "correctness" and status not in ("done", "done before"):
            found.append(f"{experiment.name}: {status}")
        if status != "no time left" and run is not None:
            found += [f"{experiment.name}: {row.get('name')}" for row in run.failed_checks if row.get("must")]
        if driver.plan.rehearse and status not in ("done", "done before", "no time left"):
            found.append(f"{experiment.name}: {status}")
    return list(dict.fromkeys(found))


# ---- what a result depends on


def tree_digest(*patterns: str) -> str:
    """Return a digest of files of the repository, by default of the common code.

    Unlike a commit, it also exists in a copied tree without ``.git``.
    """
    digest = hashlib.sha256()
    for pattern in patterns or ("ffcv_gpu/**/*.py", "kernels/**/*.py", "benchmarks/**/*.py"):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def folder_digest(folder: Path | None) -> str:
    """Return a digest of the names and sizes of a folder's files."""
    if folder is None:
        return "packaged"
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def gpus_of(folder: Path) -> set[str]:
    """Return the names of the GPUs of a folder's results: one, as a document shows a folder as one GPU."""
    found = map(last_run, folder.glob("*.jsonl"))
    return {str(run.start["gpu"]["gpu"]) for run in found if run is not None}


def slug(name: str) -> str:
    """Return a folder name such as "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cleaned(words: str) -> str:
    """Remove the machine's paths and unprintable characters from a process's output."""
    for path, name in ((str(ROOT), "."), (sys.prefix, "<python>"), (str(Path.home()), "~")):
        if len(path) > 1:
            words = words.replace(path, name)
    return "".join(c for c in words if c.isprintable() or c == "\n").strip()

"""The process of one experiment: opens the device, runs the experiment, appends its rows immediately."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import BRIEF, FULL, SMALL, Bench, check, still_works
from benchmarks.gpu.device import Gpu
from benchmarks.gpu.lines import append, kept_cases

__all__ = ["CUT_SHORT", "RESULTS", "main", "open_gpu"]

#: environment variable that names the file of the results
RESULTS = "FFCV_GPU_BENCH_RESULTS"
#: exit status of an experiment that stopped because its time was nearly over
CUT_SHORT = 75


def open_gpu(*, rehearse: bool) -> Gpu:
    """Return the device: torch's first GPU, or the rehearsal's."""
    if rehearse:
        from benchmarks.gpu.host_device import HostGpu

        return HostGpu()
    from benchmarks.gpu.torch_device import TorchGpu

    return TorchGpu()


def main(argv: list[str]) -> int:
    """Run what the driver requests by the only argument, a JSON object."""
    asked: dict[str, Any] = json.loads(argv[0])
    end_with_the_driver(asked["alive"])
    faulthandler.enable()
    # Shortly before the time limit, so that the output says where a hang is.
    faulthandler.dump_traceback_later(max(asked["seconds"] - 2.0, 0.5), exit=False)
    target = Path(os.environ[RESULTS])
    if asked["module"] == "facts":
        append(target, {"row": "facts", **open_gpu(rehearse=asked["rehearse"]).facts()})
        return 0
    return _run(asked, target)


def end_with_the_driver(pipe: int) -> None:
    """Let this session be killed when a pipe ends, whose other end the driver holds.

    A time limit on the driver's command kills the driver alone. In a session of its own, an experiment would
    go on, keep the GPU, and disturb what is measured next. A process watches the pipe, because a thread would
    wait for the GIL, which a hang may hold, and stand first in the traceback of a crash.
    """
    subprocess.Popen(["/bin/sh", "-c", "read -r _; kill -KILL 0"], stdin=pipe)  # 0: the session's processes


def _run(asked: dict[str, Any], target: Path) -> int:
    end = time.monotonic() + asked["seconds"] - 4.0
    experiment = importlib.import_module(f"benchmarks.gpu.{asked['module']}")
    gpu = open_gpu(rehearse=asked["rehearse"])
    data = Path(asked["data"]) if asked["data"] else None
    scale = SMALL if asked["rehearse"] else BRIEF if asked["brief"] else FULL
    kept = {} if asked["again"] else kept_cases(target)
    bench = Bench(gpu, scale, Path(asked["work"]), data, asked["part"], kept)
    for row in experiment.run(bench):
        append(target, row)
        if time.monotonic() > end and row.get("row") != "repeat":
            print("ended early: the time is nearly over", file=sys.stderr)
            return CUT_SHORT
    if gpu.rehearsal:
        mistakes = gpu.mistakes()  # type: ignore[attr-defined]
        append(target, check("nvJPEG is used as it allows", not mistakes, mistakes=mistakes[:5]))
    append(target, still_works(gpu))
    return 0

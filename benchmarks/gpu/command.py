"""``python -m benchmarks gpu``: its options, and its result shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.forecast import minutes
from benchmarks.gpu.driver import Driver, Plan, failures
from benchmarks.gpu.suite import PLANS, STAGES, Experiment, chosen, planned, seconds_of
from benchmarks.gpu.tables import details, load, overview
from benchmarks.options import positive

__all__ = ["add_command", "run", "show"]


def add_command(commands: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "gpu", help="everything there is to ask a GPU: correctness, then experiments, then throughput"
    )
    add = parser.add_argument
    words = "such as E0,E3 or c1_parity; or a part, e09_errors-png"
    add("--only", nargs="+", default=[], metavar="NAME", help=words)
    words = "so many of them, the most valuable first: for a few minutes on a GPU"
    add("--plan", choices=PLANS, help=words)
    stages = [stage.replace(" ", "-") for stage in STAGES]
    add("--stages", nargs="+", choices=stages, help="only experiments of these stages")
    words = "for all of it; the rest is left for a next run"
    add("--minutes", type=float, default=60.0, help=words)
    add("--again", action="store_true", help="also what was finished before, on this GPU and code")
    add("--data", type=Path, metavar="FOLDER", help="JPEG photographs (default: packaged ones)")
    add("--work", type=Path, default=Path("bench-output"), help="folder for files that are made")
    words = "folder of results (default: benchmarks/results/<the GPU's name>)"
    add("--out", type=Path, help=words)
    words = "without a GPU: all of it on host memory and a fake nvJPEG, small"
    add("--rehearse", action="store_true", help=words)
    add("--brief", action="store_true", help="fewer cases and repeats: half the time")
    words = "correctness and reach: so many experiments at once (what takes times runs alone)"
    add("--jobs", type=positive, default=1, help=words)
    add("--list", action="store_true", help="print the experiments and their limits")


def run(arguments: argparse.Namespace) -> int:
    """Run it; returns 1 if correctness was not shown, or something that must hold does not."""
    experiments = chosen(arguments.only, rehearsal=arguments.rehearse)
    if arguments.stages:
        experiments = [e for e in experiments if e.stage.replace(" ", "-") in arguments.stages]
    if arguments.plan:
        experiments = planned(experiments, arguments.plan)
    if arguments.list:
        print_list(experiments, arguments.plan, arguments.jobs)
        return 0
    if arguments.data is not None and not arguments.data.is_dir():
        raise ValueError(f"--data {arguments.data} is not a folder")
    out = arguments.out
    if out is None and arguments.rehearse:
        out = arguments.work / "rehearsal"
    a = arguments
    plan = Plan(experiments, out, a.work, a.data, a.minutes, a.again, a.rehearse, a.brief, a.jobs)
    driver = Driver(plan)
    driver.run()
    print(overview(load(driver.out), driver.outcome))
    found = failures(driver)
    for words in found:
        print(f"FAILED: {words}", file=sys.stderr)
    print(f"\nwritten: {driver.out}; python -m benchmarks show {driver.out} shows all of it")
    return int(bool(found))


def print_list(experiments: Sequence[Experiment], plan: str, jobs: int) -> None:
    """Print their limits; of a plan, about how long each takes, and all of it."""
    for e in experiments:
        print(f"{e.name:34} {PLANS[plan][e.name] if plan else e.seconds:4} s  {e.stage}: {e.question}")
    if plan:
        print(f"about {minutes(seconds_of(experiments, plan, jobs))}, with --brief --jobs {jobs}")


def show(path: Path) -> str:
    """Return the tables of a folder or file of GPU results; "" for what is something else."""
    if path.is_dir():
        found = load(path)
        return "\n\n".join([overview(found), *map(details, found)])
    return "\n\n".join(map(details, load(path))) if path.suffix == ".jsonl" and path.exists() else ""

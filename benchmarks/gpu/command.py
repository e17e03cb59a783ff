"""``python -m benchmarks gpu``: its options, and the display of results."""

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
from benchmarks.photos import find_photos

__all__ = ["add_command", "run", "show"]


def add_command(commands: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "gpu", help="on a GPU: correctness, then experiments, then throughput"
    )
    add = parser.add_argument
    words = "experiments, such as E0,E3 or c1_parity, or parts, such as e09_errors-png"
    add("--only", nargs="+", default=[], metavar="NAME", help=words)
    words = "the experiments of a plan, the most valuable first: for a few minutes on a GPU"
    add("--plan", choices=PLANS, help=words)
    stages = [stage.replace(" ", "-") for stage in STAGES]
    add("--stages", nargs="+", choices=stages, help="only experiments of these stages")
    words = "for all experiments; what does not fit is left for the next run (default: %(default)g)"
    add("--minutes", type=float, default=60.0, help=words)
    add("--again", action="store_true", help="also run what is complete for this GPU and code")
    add("--data", type=Path, metavar="FOLDER", help="JPEG photographs (default: packaged ones)")
    add("--work", type=Path, default=Path("bench-output"), help="folder for files that are written")
    words = "folder of results (default: benchmarks/results/<the GPU's name>)"
    add("--out", type=Path, help=words)
    words = "run everything small, without a GPU: on host memory and a fake nvJPEG"
    add("--rehearse", action="store_true", help=words)
    add("--brief", action="store_true", help="fewer cases and repeats: half the time")
    words = "concurrent experiments, among those that measure no times (default: 1)"
    add("--jobs", type=positive, default=1, help=words)
    add("--list", action="store_true", help="print the experiments and their time limits")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns 1 if correctness was not shown, or a check that must hold does not."""
    experiments = chosen(arguments.only, rehearsal=arguments.rehearse)
    if arguments.stages:
        experiments = [e for e in experiments if e.stage.replace(" ", "-") in arguments.stages]
    if arguments.plan:
        experiments = planned(experiments, arguments.plan)
    if arguments.list:
        print_list(experiments, arguments.plan, arguments.jobs)
        return 0
    find_photos(arguments.data, arguments.work)  # raises here, not once in each experiment
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
    print(f"\nwritten: {driver.out}; to show all of it: python -m benchmarks show {driver.out}")
    return int(bool(found))


def print_list(experiments: Sequence[Experiment], plan: str, jobs: int) -> None:
    """Print the experiments with their time limits; for a plan, with the expected durations."""
    for e in experiments:
        print(f"{e.name:34} {PLANS[plan][e.name] if plan else e.seconds:4} s  {e.stage}: {e.question}")
    if plan:
        print(f"about {minutes(seconds_of(experiments, plan, jobs))}, with --brief --jobs {jobs}")


def show(path: Path) -> str:
    """Return the tables of a folder or file of GPU results; "" for anything else."""
    if path.is_dir():
        found = load(path)
        return "\n\n".join([overview(found), *map(details, found)])
    return "\n\n".join(map(details, load(path))) if path.suffix == ".jsonl" and path.exists() else ""

"""The command line of the suite."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import (
    bench_decode,
    bench_growth,
    bench_host,
    bench_kernels,
    bench_loader,
    bench_memory,
    bench_open,
    bench_peers,
    bench_start,
    bench_threads,
    bench_train,
    bench_uses,
    bench_write,
    tables,
)
from benchmarks.catalogue import PLOTS
from benchmarks.compare import Turns
from benchmarks.gpu import command as gpu
from benchmarks.harness import Failed
from benchmarks.machine import machine_facts
from benchmarks.options import Bench, positive
from benchmarks.peers import FFCV, INSTALLABLE
from benchmarks.record import load, save
from benchmarks.report import table

__all__ = ["BENCHES", "main", "parse"]

_ALL = (bench_loader, bench_peers, bench_decode, bench_write, bench_open, bench_start, bench_memory,
        bench_kernels, bench_growth, bench_train, bench_uses, bench_host,
        bench_threads)  # fmt: skip
BENCHES: dict[str, Bench] = {module.BENCH.name: module.BENCH for module in _ALL}


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Adds an option's default to its help, unless that is None or named there."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message if it is invalid."""
    words = "Benchmark ffcv_gpu against other libraries."
    parser = argparse.ArgumentParser("python -m benchmarks", description=words)
    commands = parser.add_subparsers(dest="command", required=True, metavar="NAME")
    for bench in BENCHES.values():
        command = commands.add_parser(bench.name, help=bench.help, formatter_class=Defaults)
        common_options(command, bench)
        bench.add_options(command)
    gpu.add_command(commands)
    tables.add_command(commands)
    show = commands.add_parser("show", help="print the table of a result")
    words = "a .json result, a .jsonl result of a GPU, or a folder of the latter"
    show.add_argument("file", type=Path, help=words)
    setup = commands.add_parser("setup-peer", help="install another library in a separate environment")
    setup.add_argument("peer", choices=INSTALLABLE)
    setup.add_argument(
        "--home", type=Path, help="folder of the environment (default: bench-output/peers/NAME)"
    )
    setup.add_argument(
        "--pip",
        default="",
        help="arguments added to each pip install (for libturbojpeg, to cmake): '-i URL torch==2.13.0+cpu'",
    )
    return parser.parse_args(argv)


def common_options(parser: argparse.ArgumentParser, bench: Bench) -> None:
    """Declare the options of every benchmark."""
    work = Path("bench-output")
    parser.add_argument("--rounds", type=positive, default=bench.rounds, help="turns per contender")
    parser.add_argument(
        "--others", type=float, default=1.0, metavar="SHARE",
        help="repeat turns in which other processes used more than this share of the cores (1: none)",
    )  # fmt: skip
    parser.add_argument("--patience", type=float, default=600, help="seconds for repeated turns, per case")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="JPEG photographs (default: from installed packages)"
    )
    parser.add_argument(
        "--work", type=Path, default=work, help="folder for the files that are written and read"
    )
    parser.add_argument("--out", type=Path, default=work / f"{bench.name}.json", help="file of the result")
    words = f"Python of an environment with FFCV (or set {FFCV.variable})"
    parser.add_argument("--ffcv-python", metavar="PYTHON", help=words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 1 if anything failed."""
    arguments = parse(argv)
    try:
        if arguments.command == "show":
            print(gpu.show(arguments.file) or table(load(arguments.file)))
            return 0
        if arguments.command == "gpu":
            return gpu.run(arguments)
        if arguments.command == "tables":
            return tables.run(arguments)
        if arguments.command == "setup-peer":
            print(INSTALLABLE[arguments.peer].install(arguments.home, shlex.split(arguments.pip)))
            return 0
        return measure(BENCHES[arguments.command], arguments)
    except (Failed, OSError, RuntimeError, ValueError) as error:
        print(f"python -m benchmarks {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        left = {"gpu": "; what was measured is kept"} | dict.fromkeys(BENCHES, "; nothing was written")
        words = f"interrupted{left.get(arguments.command, '')}"
        print(f"python -m benchmarks {arguments.command}: {words}", file=sys.stderr)
        return 130


def measure(bench: Bench, arguments: argparse.Namespace) -> int:
    """Run a benchmark, write its result, print its table."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    check_writable(arguments.out)
    machine = machine_facts()  # first: the load average before our own load
    arguments.turns = Turns(arguments.rounds, arguments.others, arguments.patience)
    record = bench.run(arguments)
    record.settings["turns"] = asdict(arguments.turns)
    record.machine = machine
    save(record, arguments.out)
    print(table(record))
    print(f"\nwritten: {arguments.out}")
    draw(bench, arguments.out)
    return int(any(row.failed for row in record.rows))


def check_writable(path: Path) -> None:
    """Raise if the result could not be written: before an hour of measuring, not after it."""
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder, not a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written: {error.strerror}") from error


def draw(bench: Bench, path: Path) -> None:
    """Draw the result's pictures, if matplotlib is installed."""
    try:
        for plot in PLOTS:
            if plot.result == f"{bench.name}.json" and tables.draw(plot, path):
                print(f"drawn: {path.parent / 'plots' / plot.name}.png")
    except RuntimeError as error:
        print(f"not drawn: {error}", file=sys.stderr)

"""What a benchmark is to the command line, and the options that several of them take."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import Record

__all__ = ["Bench", "cores_option", "positive"]


@dataclass(frozen=True)
class Bench:
    """One command.

    Attributes
    ----------
    name, help
    add_options
        declares its own options; the common ones are there already
    run
        does it and returns the result; prints nothing on stdout
    rounds
        turns of each contender, unless --rounds says otherwise
    plot
        draws a picture from the result's file: (source, target) -> target
    """

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Record]
    rounds: int = 5
    plot: Callable[[Path, Path], Path] | None = None


def positive(text: str) -> int:
    """Whole number >= 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= 1")
    return value


def cores_option(parser: argparse.ArgumentParser) -> None:
    """Declare --cores: one case for each number."""
    usable = len(os.sched_getaffinity(0))

    def cores(text: str) -> int:
        value = positive(text)
        if value > usable:
            raise argparse.ArgumentTypeError(f"this process may use {usable} cores, not {value}")
        return value

    parser.add_argument("--cores", nargs="+", type=cores, default=[usable],
                        help="numbers of cores to try (default: all that this process may use)")  # fmt: skip

"""A benchmark as the command line sees it, and options that several of them share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.record import Record

__all__ = ["Bench", "cores_option", "positive"]


@dataclass(frozen=True)
class Bench:
    """One command.

    Attributes
    ----------
    name, help
    add_options
        declares its own options, beside the common ones
    run
        runs it and returns the result; prints nothing to stdout
    rounds
        default of --rounds, turns per contender
    """

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Record]
    rounds: int = 5


def positive(text: str) -> int:
    """Parse a whole number >= 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= 1")
    return value


def cores_option(parser: argparse.ArgumentParser) -> None:
    """Declare --cores, one case per number."""
    usable = len(os.sched_getaffinity(0))

    def cores(text: str) -> int:
        value = positive(text)
        if value > usable:
            raise argparse.ArgumentTypeError(f"this process may use {usable} cores, not {value}")
        return value

    parser.add_argument("--cores", nargs="+", type=cores, default=[usable],
                        help="numbers of cores, one case each (default: all usable ones)")  # fmt: skip

"""The cases of the benchmarks as data, one TOML file each, and their selection."""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["GRIDS", "cores_up_to", "grid_options", "picked", "read"]

GRIDS = ("quick", "full")


def read(name: str) -> dict[str, Any]:
    """Read the grid of a benchmark."""
    return tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))


def cores_up_to(most: int | None = None) -> list[int]:
    """Return 1, 2, 4, ... and `most` itself, by default the number of cores this process may use."""
    most = most or len(os.sched_getaffinity(0))
    return sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most})


def grid_options(parser: argparse.ArgumentParser) -> None:
    """Declare --grid and --case."""
    parser.add_argument("--grid", choices=GRIDS, default="quick", help="which cases")
    parser.add_argument("--case", nargs="+", metavar="NAME", help="only these cases or blocks, of both grids")


def picked(cases: Iterable[tuple[str, str]], wanted: Sequence[str] | None) -> set[str]:
    """Return the names of the cases that --case selects; all if it is not given.

    Parameters
    ----------
    cases
        names (block, case); a block stands for all of its cases
    wanted

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    found = list(cases)
    if wanted is None:
        return {case for _, case in found}
    known = {name for pair in found for name in pair}
    if unknown := [name for name in wanted if name not in known]:
        blocks = list(dict.fromkeys(block for block, _ in found))
        names = [case for _, case in found if case not in blocks]
        raise ValueError(f"--case {unknown[0]!r} is not known; there are {', '.join(blocks + names)}")
    return {case for block, case in found if block in wanted or case in wanted}

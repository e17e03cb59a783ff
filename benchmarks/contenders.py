"""Peers and ffcv_gpu as contenders of one benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.harness import Contender
from benchmarks.peers import FFCV, LIBTURBOJPEG, PEERS, Peer
from benchmarks.peers.base import Rows
from benchmarks.record import Row

__all__ = ["contenders_of", "notes_of", "peers_options"]


def peers_options(parser: argparse.ArgumentParser) -> None:
    """Declare --peers and --only."""
    parser.add_argument(
        "--peers", type=Path, metavar="FOLDER",
        help="folder of the peers' environments (default: that of setup-peer)",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="peers to run",
                        metavar="PEER")  # fmt: skip


def contenders_of(
    arguments: argparse.Namespace, own: Rows, rows_of: Callable[[Peer], Rows]
) -> list[Contender]:
    """Return ffcv_gpu's rows, then those of the chosen peers; a missing one says why."""
    without = LIBTURBOJPEG.find()  # also sets the environment variable, which the bare decoder reads
    found = [
        Contender(
            name, "own_worker.py", its, missing=without if its.get("jpeg_backend") == "turbo3" else None
        )
        for name, its in own.items()
    ]
    for name in arguments.only:
        peer = PEERS[name]
        if rows_of(peer):
            given = arguments.ffcv_python if peer is FFCV else None
            python, missing = peer.find(given, arguments.peers)
            found += [Contender(row, peer.script, settings, python, missing)
                      for row, settings in rows_of(peer).items()]  # fmt: skip
    return found


def notes_of(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a line per contender that ran: its versions and settings."""
    said = set()
    for row in rows:
        versions = row.settings.get("versions", {})
        words = [f"{name} {found}" for name, found in versions.items()]
        words += [f"{name.replace('_', ' ')} {value}" for name, value in row.settings.items()
                  if name not in ("versions", "cores")]  # fmt: skip
        line = f"{row.name}: {', '.join(words)}"
        if words and not row.missing and line not in said:
            said.add(line)
            yield line

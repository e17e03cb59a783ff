"""Experiments that fail on purpose, in every rehearsal."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

from benchmarks.gpu.bench import Bench, Row, fact
from benchmarks.gpu.child import RESULTS

__all__ = ["run"]


def run(bench: Bench) -> Iterator[Row]:
    """Yield a row, then fail as the part says."""
    yield fact("before", part=bench.part)
    if bench.part == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if bench.part == "hang":
        time.sleep(3600)
    if bench.part == "exception":
        raise RuntimeError("on purpose")
    sys.stdout.buffer.write(b"\xff\x00{not json\n" * 1000)
    with open(os.environ[RESULTS], "ab") as file:
        file.write(b'\xff\x00 garbage\n{"row": \n[1, 2]\nhalf a line')
    yield fact("after")

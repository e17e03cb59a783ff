"""Runs contenders in turns, each in a separate process, and summarises their answers.

Absolute figures drift with the machine and the time of day. So contenders run in alternating turns
(a, b, c, c, b, a, ...), and ratios are taken turn by turn, then their median.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.watch import Peak, answered

__all__ = ["Contender", "Failed", "Worker", "interleaved", "own_packages", "ratios", "started",
           "summary"]  # fmt: skip

WORKERS = Path(__file__).parent / "workers"

Answer = dict[str, Any]


class Failed(RuntimeError):
    """A contender's process did not answer; the message is its last line of stderr."""


@dataclass(frozen=True)
class Contender:
    """What becomes one row.

    Attributes
    ----------
    name
        unique per benchmark
    script
        its worker, a file in ``workers/``
    settings
        how it differs from the others: passed to the worker and recorded in the result
    python
        the Python of its environment; None: the one that runs this
    missing
        why it cannot run here; its row then says so
    """

    name: str
    script: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None
    missing: str | None = None


class Worker:
    """A contender's process, kept alive between its turns."""

    def __init__(self, contender: Contender) -> None:
        self.name = contender.name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        command = [contender.python or sys.executable, str(WORKERS / contender.script)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=own_packages()
        )

    @property
    def process(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(self, do: str, timeout: float = 1800, peak: Peak | None = None, **request: Any) -> Answer:
        """Send one request and return its answer; raises `Failed` if none comes.

        `peak` samples the memory of the process and its children meanwhile.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.name}: {self._last_words()}") from None
        if not answered(process.stdout, timeout, process.pid, peak):
            self.kill()
            raise Failed(f"{self.name}: no answer to {do!r} within {timeout:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise Failed(f"{self.name}: {self._last_words()}")
        try:
            answer: Answer = json.loads(line)
        except ValueError:
            self.kill()  # what it says next would answer the wrong request
            words = line[:80].decode(errors="replace").strip()
            raise Failed(f"{self.name}: {words!r} is no answer to {do!r}") from None
        return answer

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        status = self._process.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").strip()
        print(words, file=sys.stderr)
        return f"{words.splitlines()[-1] if words else 'no output'} (ended with status {status})"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()


def own_packages() -> dict[str, str]:
    """Return the environment for a peer's Python: without PYTHONPATH, which might show it our packages."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@contextlib.contextmanager
def started(contender: Contender, cores: int) -> Iterator[tuple[Worker, Answer]]:
    """Start a contender's process on `cores` cores; yields it and its facts; ends it afterwards."""
    worker = Worker(contender)
    try:
        yield worker, worker.ask("facts", cores=cores)
    finally:
        worker.close()


def interleaved(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield (round, name), every name once per round, back and forth so that drift affects all alike."""
    for number in range(rounds):
        yield from ((number, name) for name in (names if number % 2 == 0 else reversed(names)))


def summary(values: Iterable[float]) -> dict[str, float]:
    """Return median, min, max, and (max - min) / median as ``spread``."""
    found = sorted(values)
    median = statistics.median(found)
    spread = (found[-1] - found[0]) / median if median else 0.0
    return {"median": median, "min": found[0], "max": found[-1], "spread": spread}


def ratios(values: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Return the `summary` of value / reference, turn by turn."""
    return summary(value / base for value, base in zip(values, reference, strict=True))

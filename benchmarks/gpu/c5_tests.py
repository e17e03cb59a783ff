"""C5: the tests that need a GPU, in a separate process; a skip counts as a failure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, Row, check, fact

__all__ = ["run"]

SECONDS, REPORT_SECONDS = 270, 10
WORDS = 400


def run(bench: Bench) -> Iterator[Row]:
    """Run ``pytest -m gpu``; a rehearsal only collects them."""
    # Only files with such tests: others import packages that a GPU machine may lack.
    files = [str(path) for path in sorted((bench.root / "tests").rglob("test_*.py"))
             if "mark.gpu" in path.read_text(encoding="utf-8")]  # fmt: skip
    # -P: the root would shadow other packages called `kernels`. Other pytest plugins are not loaded.
    command = [sys.executable, "-P", "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
               "-p", "pytest_timeout", *files]  # fmt: skip
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    if bench.gpu.rehearsal:
        done = subprocess.run(
            [*command, "--collect-only"], cwd=bench.root, env=environment, capture_output=True, text=True
        )
        found = sum("::" in line for line in done.stdout.splitlines())
        yield fact("tests that need a GPU", count=found)
        yield check("they can be collected", done.returncode == 0 and found > 0, words=done.stdout[-WORDS:])
        return
    environment["FFCV_GPU_REQUIRE_CUDA"] = "1"
    yield from report_of(command, SECONDS, cwd=bench.root, env=environment)


def report_of(command: Sequence[str], seconds: float, **settings: Any) -> Iterator[Row]:
    """Run pytest for at most `seconds`; yield the rows of its report, also if a test hangs."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        with _started([*command, f"--junitxml={report}"], **settings) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                yield check("pytest ends in time", False, seconds=seconds)
                process.send_signal(signal.SIGINT)  # after which it writes its report
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(REPORT_SECONDS)
                process.kill()
        yield from (
            rows(report.read_text(encoding="utf-8")) if report.exists() else [check("pytest finished", False)]
        )


def _started(command: Sequence[str], **settings: Any) -> subprocess.Popen[Any]:
    """Start pytest so that it heeds interrupts, at which it reports what it has.

    What a shell starts in the background ignores them, and so would what we start.
    """
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, **settings)
    finally:
        if before == signal.SIG_IGN:
            signal.signal(signal.SIGINT, before)


def rows(report: str) -> list[Row]:
    """Convert pytest's report to a row per test that did not pass, and a summary."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    found, bad = [], 0
    for case in cases:
        for what in case:
            if what.tag in ("failure", "error", "skipped"):
                bad += 1
                name = f"{case.get('classname')}::{case.get('name')}"
                found.append(check(name, False, what=what.tag, words=(what.get("message") or "")[:WORDS]))
    return [*found, check("every test that needs a GPU passes", not bad and bool(cases),
                          passed_tests=len(cases) - bad, of=len(cases))]  # fmt: skip

"""The Makefile, with a Python that only writes down what it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

#: answers -V, copies itself for -m venv, and takes a while for pip
PYTHON = """#!/bin/sh
case "$*" in
    -V) echo "Python VERSION" ;;
    "-m venv"*) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
    *"pip install"*) echo begin >> pip.log; sleep 0.2; echo end >> pip.log ;;
    *benchmarks*) echo "benchmarks by VERSION" ;;
esac
"""


@pytest.fixture
def make(root: Path, tmp_path: Path):
    """``make(*arguments)`` in a folder with a space in its name."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, folder)
    for version in ("3.12.1", "3.13.0"):
        python = tmp_path / f"python{version}"
        python.write_text(PYTHON.replace("VERSION", version))
        python.chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # without the variables of a `make test` that runs this
        environment = {"PATH": os.environ["PATH"]}
        command = ["make", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    run.log = folder / "pip.log"  # type: ignore[attr-defined]
    run.python = lambda version: f"PY={tmp_path / f'python{version}'}"  # type: ignore[attr-defined]
    return run


def test_pip_runs_once_at_a_time(make):
    done = make("-j4", "demo", "bench", make.python("3.12.1"), "EXTRAS=torch")
    assert done.returncode == 0, done.stderr
    assert make.log.read_text().split() == ["begin", "end"] * 3  # setuptools, then each extra


def test_what_is_installed_is_not_installed_again(make):
    for _ in range(2):
        assert "benchmarks by 3.12.1" in make("bench", make.python("3.12.1"), "EXTRAS=torch").stdout
    assert make.log.read_text().split() == ["begin", "end"] * 2


@pytest.mark.parametrize("target", ["demo", "test", "test-long", "lint", "notebooks", "bench", "gpu"])
def test_another_python_than_that_of_the_environment_is_refused(make, target):
    assert make("bench", make.python("3.12.1"), "EXTRAS=torch").returncode == 0
    done = make(target, make.python("3.13.0"), "EXTRAS=torch")
    assert done.returncode != 0
    assert ".venv has Python 3.12.1, PY is Python 3.13.0" in done.stdout
    assert "benchmarks by 3.13.0" in make("bench", make.python("3.13.0"), "EXTRAS=torch", "VENV=other").stdout

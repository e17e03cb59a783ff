"""`CudaLaunches` through numba itself: compiled, kept, launched; only the driver is an imitation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba.cuda")

ROOT = Path(__file__).resolve().parents[2]
#: pytest's own, as for PTX: the kernel takes 7 s to compile
KEPT = ROOT / ".pytest_cache" / "d" / "numba"

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run `launches_program` on the fake driver; returns what it found."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source, library = str(ROOT / "tests" / "fake_driver.c"), str(folder / "libcuda.so.1")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    KEPT.mkdir(parents=True, exist_ok=True)

    def run_program(what: str, **settings: str) -> Any:
        paths = f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        environment = os.environ | {"LD_LIBRARY_PATH": paths, "NUMBA_CACHE_DIR": str(KEPT)} | settings
        command = [sys.executable, "-m", "tests.device.launches_program", what]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run_program


def test_a_launch_is_one_call_and_waits_for_nothing(run: Run) -> None:
    """Twice, because the second process takes the kernel from the disk."""
    run("compose")
    found = run("compose")
    assert found["seen"] == found["expected"]
    assert found["calls"] == {"all": 3, "cuLaunchKernelEx": 1, "cuCtxGetCurrent": 1, "cuCtxGetDevice": 1}
    assert found["loaded"] == 1


def test_launches_go_to_the_threads_current_gpu(run: Run) -> None:
    """Whichever GPU was first, in the process or in the thread; without one, to the first."""
    assert run("gpus", FAKE_GPUS="2") == [1, 0, 1, 0, 0, 1, 0]


def test_a_gpu_that_the_compiler_does_not_know_is_an_error_with_advice(run: Run) -> None:
    (note,) = run("stamp", FAKE_CAPABILITY="990")
    assert "know the GPU" in note and "pip install --upgrade 'ffcv-gpu[cuda13]'" in note

"""How kernels are compiled and kept: cured of numpy's change, never older than their chapters."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import FunctionCache

from ffcv_gpu.kernels import _numba


def run(code: str, **environment: str) -> str:
    """Run Python code in a new process; return what it printed."""
    variables = os.environ | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_ROW_STACK = """
import numpy as np
if hasattr(np, "row_stack"):
    del np.row_stack                     # as in numpy 2.5
import ffcv_gpu.kernels.pointwise as pointwise
from numba import cuda, types
def kernel(target):
    target[0] = pointwise.to_byte(np.float32(3))
target = types.Array(types.uint8, 1, "C")
ptx, _ = cuda.compile(kernel, types.void(target), cc=(8, 0), output="ptx", device=False, abi="numba")
print(np.row_stack is np.vstack, ".visible .entry" in ptx)
"""


def test_cuda_kernels_compile_without_row_stack() -> None:
    pytest.importorskip("numba.cuda.np")
    assert run(WITHOUT_ROW_STACK).split() == ["True", "True"]


ENTRY = """
from copied._numba import entry
from copied.chapter import one
@entry
def first(values):
    return one(values[0])
"""
CHAPTER = """
from copied._numba import body
@body
def one(value):
    return value + {added}
"""
CALL = """
import numpy as np
from copied.mine import first
print(first(np.arange(3)), sum(first.stats.cache_hits.values()), sum(first.stats.cache_misses.values()))
"""


def a_package(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Write a small package with an entry; return its folder and the environment to run code with."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for path, text in {
        folder / "__init__.py": "",
        folder / "_numba.py": Path(_numba.__file__).read_text(encoding="utf-8"),
        folder / "mine.py": ENTRY,
        folder / "chapter.py": CHAPTER.format(added=1),
    }.items():
        path.write_text(text, encoding="utf-8")
    return folder, {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}


def test_a_kept_entry_is_not_older_than_its_chapters(tmp_path: Path) -> None:
    """Compiled, then loaded from disk, then compiled again because another file changed."""
    folder, environment = a_package(tmp_path)
    assert run(CALL, **environment).split() == ["1", "0", "1"]
    assert run(CALL, **environment).split() == ["1", "1", "0"]
    (folder / "chapter.py").write_text(CHAPTER.format(added=7), encoding="utf-8")
    assert run(CALL, **environment).split() == ["7", "0", "1"]


TWO_TYPES = """
import numpy as np
from copied.mine import first
for values in (np.arange(3.0), np.arange(3, dtype=np.float32)):
    print(first(values))
print(sum(first.stats.cache_hits.values()), sum(first.stats.cache_misses.values()))
"""


def test_kept_code_is_run_only_for_the_types_it_was_made_for(tmp_path: Path) -> None:
    """Two processes compiling at once can leave one signature's code under the other's number.

    numba 0.68 then calls it: an error here, a crash where dimensions differ.
    """
    _, environment = a_package(tmp_path)
    assert run(TWO_TYPES, **environment).split()[-2:] == ["0", "2"]
    one, two = sorted((tmp_path / "kept").rglob("*.nbc"))
    two.write_bytes(one.read_bytes())
    assert run(TWO_TYPES, **environment).split()[-4:] == ["1.0", "1.0", "1", "1"]
    assert run(TWO_TYPES, **environment).split()[-2:] == ["2", "0"]


REGISTRIES = """
import sys
print("numba.np.arraymath" in sys.modules)
"""
COMPILE_LATER = """
from numba import njit
@njit
def later(values):
    return first(values) + values.sum()
print(later(np.arange(3)), first(np.arange(5.0)))      # the entry inside another; its second type
"""


def test_a_kept_entry_needs_none_of_numbas_registries(tmp_path: Path) -> None:
    """Filling them takes longer than the rest of a start; what is compiled after it finds them filled."""
    _, environment = a_package(tmp_path)
    assert run(CALL + REGISTRIES, **environment).split() == ["1", "0", "1", "True"]
    loaded = run(CALL + REGISTRIES + COMPILE_LATER, **environment).split()
    assert loaded == ["1", "1", "0", "False", "4", "1.0"]


def test_without_a_folder_to_write_to_entries_still_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """numba raises where no cache folder can be written; we say so once per entry and go on."""

    def nowhere(self: FunctionCache, function: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(FunctionCache, "__init__", nowhere)
    with caplog.at_level(logging.WARNING):
        first = _numba.entry(lambda values: values[0])
    assert "compiled again in every process" in caplog.text
    assert first(np.arange(5, 8)) == 5

"""How kernels are compiled and kept: cured of numpy's change, never older than their chapters."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from numba.core.caching import FunctionCache

from ffcv_gpu.kernels import _kept, _numba
from ffcv_gpu.kernels._announcer import Announcer


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


def text_of(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def a_package(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Write a small package with an entry; return its folder and the environment to run code with."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for path, text in {
        folder / "__init__.py": "",
        folder / "_kept.py": text_of(_kept),
        folder / "_numba.py": text_of(_numba).replace("ffcv_gpu.kernels._kept", "copied._kept"),
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


def first(values: npt.NDArray[np.int64]) -> np.int64:
    return values[0]  # type: ignore[no-any-return]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[float], None]:
    """Make the announcer that of a new process, with so much patience; what it says is in `caplog`."""
    caplog.set_level(logging.INFO, "ffcv_gpu.kernels._announcer")

    def anew(patience: float) -> None:
        caplog.clear()
        monkeypatch.setattr(_kept, "announcer", Announcer(patience))

    return anew


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


def test_compiling_is_announced_and_loading_is_not(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    told: Callable[[float], None],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    told(60.0)
    assert _numba.entry(first)(np.arange(5, 8)) == 5
    assert levels(caplog) == ["INFO"] and str(tmp_path) in caplog.text
    told(60.0)
    assert _numba.entry(first)(np.arange(5, 8)) == 5
    assert not caplog.records


def test_compiling_for_a_gpu_is_announced(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    told: Callable[[float], None],
    tmp_path: Path,
) -> None:
    """With numba-cuda's own dispatcher and cache; only its compiler, which needs a driver, is ours."""
    cuda = pytest.importorskip("numba.cuda.dispatcher")
    codegen = SimpleNamespace(magic_tuple=lambda: ("nvptx", (9, 0)))
    context = SimpleNamespace(refresh=lambda: None, codegen=lambda: codegen)

    def load(dispatcher: Any, signature: Any) -> Any:
        return dispatcher._cache.load_overload(signature, context)

    monkeypatch.setattr(cuda.CUDADispatcher, "compile", load)
    monkeypatch.setattr(import_module("numba.cuda.core.config"), "CACHE_DIR", str(tmp_path))
    told(60.0)
    assert _numba.kernel(first).compile((numba.types.int64,)) is None
    assert levels(caplog) == ["INFO"] and str(tmp_path) in caplog.text


def test_without_a_folder_to_write_to_entries_still_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, told: Callable[[float], None]
) -> None:
    """numba raises where no cache folder can be written; we say so while compiling."""

    def nowhere(self: FunctionCache, function: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(FunctionCache, "__init__", nowhere)
    told(0.0)
    assert _numba.entry(first)(np.arange(5, 8)) == 5
    assert levels(caplog) == ["WARNING"]
    assert "every process" in caplog.text and "NUMBA_CACHE_DIR" in caplog.text


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


def test_a_full_disk_ends_no_epoch(tmp_path: Path) -> None:
    """The folder can be written, the files cannot. numba lets the error through; we only tell."""
    _, environment = a_package(tmp_path)
    done = subprocess.run(
        [sys.executable, "-B", "-c", FULL + CALL],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.stdout.split() == ["1", "0", "1"], done.stderr
    assert "cannot be kept in" in done.stderr and "File too large" in done.stderr


def test_what_cannot_be_read_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in place of the index: an error like that of another user's file, but for root as well."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert _numba.entry(first)(np.arange(5, 8)) == 5
    (index,) = tmp_path.rglob("*.nbi")
    index.unlink()
    index.mkdir()
    again = _numba.entry(first)
    assert again(np.arange(5, 8)) == 5 and not again.stats.cache_hits


@pytest.mark.parametrize("damage", [b"", b"\x80\x04\x95", b"rubbish"], ids=["empty", "cut", "rubbish"])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_damaged_files_are_compiled_and_kept_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, damage: bytes
) -> None:
    """As left behind by a machine that crashed: every process would fail until somebody deletes them."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert _numba.entry(first)(np.arange(5, 8)) == 5
    (file,) = tmp_path.rglob(f"*.{kind}")
    file.write_bytes(damage)
    for hits in (0, 1):
        again = _numba.entry(first)
        assert again(np.arange(5, 8)) == 5 and sum(again.stats.cache_hits.values()) == hits


def test_an_inner_loop_is_called_by_compiled_code_only() -> None:
    """It has no wrapper for Python, whose address would be 0: also once an entry has compiled it."""
    inner = _numba.loop(first)
    message = "first is compiled for other compiled functions only"
    for _ in range(2):
        with pytest.raises(TypeError, match=message):
            inner(np.arange(5, 8))
        outer = _numba.shared(lambda values: inner(values))
        assert outer(np.arange(5, 8)) == 5
    assert len(inner.overloads) == 1


FORKED = """
import os, threading, time
from numba.core.compiler_lock import global_compiler_lock
import ffcv_gpu.kernels.rows_cpu
compiling = threading.Event()
def compile_something():
    with global_compiler_lock:
        compiling.set()
        time.sleep(0.5)
threading.Thread(target=compile_something).start()
compiling.wait()
if child := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    with global_compiler_lock:
        os._exit(7)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_a_process_forked_while_something_is_compiled_can_compile() -> None:
    """numba's lock would be locked in the child, by a thread that it does not have."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["7"], done.stderr


def test_numba_that_compiles_nothing_is_an_error() -> None:
    command = [sys.executable, "-c", "import ffcv_gpu.kernels.rows_cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}
    )
    assert done.stderr.strip().endswith(
        "ImportError: ffcv_gpu's kernels must be compiled: unset NUMBA_DISABLE_JIT"
    )


USED_BY_BOTH = """
import sys
import numpy as np
from numba import njit
from ffcv_gpu.kernels._numba import entry
values = np.arange(16, dtype=np.float32)
if "user" in sys.argv:
    @njit(error_model="numpy")  # as a user's FFCV operation is compiled
    def users(values):
        return values[:8].view(np.uint8).reshape(2, 16).sum()
    users(values)
@entry
def ours(values):
    total = 0
    for byte in values[:8].view(np.uint8).reshape(2, 16)[0]:
        total += byte
    return total
print(ours(values), sum(ours.stats.cache_hits.values()))
"""


def test_kept_code_has_nothing_of_what_a_user_compiled_before(tmp_path: Path) -> None:
    """numba links one copy of the inside of `view` into all functions; a user's counts references."""
    program = tmp_path / "program.py"
    program.write_text(USED_BY_BOTH)
    variables = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    found = []
    for arguments in (["user"], []):
        command = [sys.executable, str(program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=variables)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found[0][0] == found[1][0] and found[1][1] == "1"
    (kept,) = (tmp_path / "kept").rglob("*.nbc")
    assert b"NRT_incref" not in kept.read_bytes()

"""Processes that need the same function: one compiles, the others wait for it, but not for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.kernels import _kept, _numba, _turns
from ffcv_gpu.kernels._turns import Turns


class Waiting:
    """The time of whoever waits: while it sleeps, `meanwhile` happens."""

    def __init__(self) -> None:
        self.now, self.meanwhile = 0.0, lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    made = Waiting()
    monkeypatch.setattr(_turns, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep))
    return made


@pytest.fixture
def turns() -> Iterator[Callable[..., Turns]]:
    """Make `Turns`, each of which gives its turn after the test."""
    with ExitStack() as ends:

        def make(path: Path, **options: float) -> Turns:
            made = Turns(str(path), **options)
            ends.callback(made.give)
            return made

        yield make


def test_a_turn_ends_when_it_is_given(waiting: Waiting, turns: Callable[..., Turns], tmp_path: Path) -> None:
    one, two = turns(tmp_path / "new" / "kept"), turns(tmp_path / "new" / "kept")
    one.take()
    assert not waiting.now
    waiting.meanwhile = one.give
    two.take()
    assert waiting.now == _turns.POLL_SECONDS
    waiting.meanwhile = two.give
    one.take()
    assert waiting.now == 2 * _turns.POLL_SECONDS


def test_a_turn_does_not_go_on_in_a_forked_process(
    waiting: Waiting, turns: Callable[..., Turns], tmp_path: Path
) -> None:
    """Such as a DataLoader's worker: it inherits the open file, and with it the lock."""
    one, two = turns(tmp_path / "kept"), turns(tmp_path / "kept")
    one.take()
    inherited = os.dup(one._mine.file)
    one.give()
    two.take()
    assert not waiting.now
    os.close(inherited)


def test_a_turn_ends_with_its_process(waiting: Waiting, turns: Callable[..., Turns], tmp_path: Path) -> None:
    path = tmp_path / "kept"
    code = f"from ffcv_gpu.kernels._turns import Turns; t = Turns({str(path)!r}); t.take(); print(); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()

        def kill() -> None:
            other.kill()
            other.wait()

        waiting.meanwhile = kill
        turns(path).take()
        assert waiting.now == _turns.POLL_SECONDS


def test_nobody_waits_for_ever(waiting: Waiting, turns: Callable[..., Turns], tmp_path: Path) -> None:
    stopped, mine = turns(tmp_path / "kept"), turns(tmp_path / "kept", longest=3.0)
    stopped.take()
    mine.take()
    assert 3.0 <= waiting.now < 3.1


def test_where_nothing_can_be_locked_nobody_waits(waiting: Waiting, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (None, str(tmp_path / "file" / "kept")):
        turns = Turns(path)
        turns.take()
        turns.give()
    assert not waiting.now


def first(values: npt.NDArray[np.int64]) -> np.int64:
    return values[0]  # type: ignore[no-any-return]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[Path]]:
    """Keep compiled functions in `tmp_path`; return which files are there."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return lambda: sorted(path for path in tmp_path.rglob("*.nb?"))


@pytest.mark.parametrize("when", ["while waiting", "just before"])
def test_what_another_process_compiles_meanwhile_is_loaded(
    waiting: Waiting,
    turns: Callable[..., Turns],
    kept: Callable[[], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    assert _numba.entry(first)(np.arange(5, 8)) == 5
    files = kept()
    other = turns(files[-1])
    assert files[-1].suffix == ".nbi"
    for file in files:
        file.rename(f"{file}.later")
    other.take()

    def finish(*_: object) -> None:
        for file in files:
            os.rename(f"{file}.later", file)
        other.give()

    if when == "just before":
        monkeypatch.setattr(_kept, "announcer", SimpleNamespace(begin=finish, end=lambda: None))
    else:
        waiting.meanwhile = finish
    mine = _numba.entry(first)
    assert mine(np.arange(5, 8)) == 5
    assert sum(mine.stats.cache_hits.values()) == 1 and not mine.stats.cache_misses


def test_the_turn_ends_with_the_compilation(
    waiting: Waiting, turns: Callable[..., Turns], kept: Callable[[], list[Path]]
) -> None:
    def wrong(values: npt.NDArray[np.int64]) -> object:
        return values.no_such_thing  # type: ignore[attr-defined]

    assert _numba.entry(first)(np.arange(5, 8)) == 5
    with pytest.raises(numba.TypingError):
        _numba.entry(wrong)(np.arange(5, 8))
    locks = [file.with_suffix("") for file in kept()[0].parent.glob("*.lock")]
    assert len(locks) == 2
    for lock in locks:
        turns(lock).take()
    assert not waiting.now

"""When a user hears that kernels are being compiled, and how often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ffcv_gpu.kernels import _announcer
from ffcv_gpu.kernels._announcer import Announcer

PATIENCE = 0.05


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "ffcv_gpu.kernels._announcer"):
        yield


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


class Clock:
    """A time that passes in `sleep` alone, with a timer that goes off meanwhile."""

    def __init__(self) -> None:
        self.now = self._due = 0.0
        self._call: Callable[[], object] | None = None

    def timer(self, seconds: float, call: Callable[..., object], arguments: Any) -> SimpleNamespace:
        def set_to(due: float, what: Callable[[], object] | None) -> None:
            self._due, self._call = due, what

        due = self.now + seconds
        return SimpleNamespace(
            start=lambda: set_to(due, lambda: call(*arguments)), cancel=lambda: set_to(0.0, None)
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._call is not None and self._due <= self.now:
            call, self._call = self._call, None
            call()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The announcer's time: a slow machine takes longer than `PATIENCE` for anything."""
    made = Clock()
    threads = SimpleNamespace(Timer=made.timer, Lock=threading.Lock, get_ident=threading.get_ident)
    monkeypatch.setattr(_announcer, "threading", threads)
    monkeypatch.setattr(_announcer, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def warned(caplog: pytest.LogCaptureFixture) -> bool:
    """Wait until there is a warning, for half a minute at most."""
    end = time.monotonic() + 30.0
    while "WARNING" not in levels(caplog) and time.monotonic() < end:
        time.sleep(0.005)
    return "WARNING" in levels(caplog)


def test_a_short_compilation_is_told_once_and_below_the_warnings(caplog: pytest.LogCaptureFixture) -> None:
    announcer = Announcer(patience=60.0)
    for _ in range(3):
        announcer.begin("/kept/here")
        announcer.end()
    assert levels(caplog) == ["INFO"] and "/kept/here" in caplog.text


def test_a_long_one_is_a_warning_while_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    announcer = Announcer(PATIENCE)
    announcer.begin("/kept/here")
    assert warned(caplog)
    text = caplog.records[-1].getMessage()
    assert "compiling" in text and "once" in text and "/kept/here" in text and "NUMBA_CACHE_DIR" in text
    announcer.end()
    announcer.begin("/kept/here")
    time.sleep(2 * PATIENCE)
    announcer.end()
    assert levels(caplog) == ["INFO", "WARNING"]


def test_short_ones_add_up(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    announcer = Announcer(PATIENCE)
    for _ in range(3):
        announcer.begin("/kept/here")
        clock.sleep(0.3 * PATIENCE)
        announcer.end()
    assert levels(caplog) == ["INFO"]
    announcer.begin("/kept/here")
    clock.sleep(0.2 * PATIENCE)
    assert levels(caplog) == ["INFO", "WARNING"]
    announcer.end()


def test_nothing_is_said_between_compilations(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    announcer = Announcer(PATIENCE)
    announcer.begin("/kept/here")
    announcer.end()
    clock.sleep(2 * PATIENCE)
    assert levels(caplog) == ["INFO"]
    announcer.end()  # what was loaded from disk ends without having begun


def test_without_a_folder_the_warning_says_that_every_process_compiles(
    caplog: pytest.LogCaptureFixture,
) -> None:
    announcer = Announcer(0.0)
    announcer.begin(None)
    assert warned(caplog) and levels(caplog) == ["WARNING"]
    assert "every process" in caplog.text and "NUMBA_CACHE_DIR" in caplog.text
    announcer.end()


def test_one_of_two_threads_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    announcer = Announcer(PATIENCE)
    other = threading.Thread(target=lambda: (announcer.begin("/kept/here"), announcer.end()))
    announcer.begin("/kept/here")
    other.start()
    other.join()
    assert warned(caplog)
    announcer.end()


def test_code_that_could_not_be_written_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    announcer = Announcer()
    for _ in range(2):
        announcer.lose("/kept/here", OSError(28, "No space left on device"))
    assert levels(caplog) == ["WARNING"]
    assert "/kept/here" in caplog.text and "No space left" in caplog.text and "every process" in caplog.text

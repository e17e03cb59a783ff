"""The bench of the tests of the nvJPEG backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ffcv_gpu.jpeg.nvjpeg import handles
from tests.jpeg.nvjpeg_bench import Bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    """Makes `Bench`; at the end, none of the library's rules may have been broken."""
    # What is kept for the whole process would keep every fake library and its memory.
    monkeypatch.setattr(handles, "_known", {})
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(**settings))
        return made[-1]

    yield make
    for one in made:
        one.backend.close()
        one.fake.verify()

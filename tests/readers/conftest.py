"""Shared by the tests of remote reading: a file, a server with it, a folder for copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ffcv_gpu.readers.remote import store
from tests.range_server import RangeServer
from tests.remote_file import end_of_downloads, write_long


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a file of about 15 blocks."""
    return write_long(tmp_path_factory.mktemp("remote") / "long.beton")


@pytest.fixture
def server(long: Path) -> Iterator[RangeServer]:
    """A server with the same file."""
    pytest.importorskip("obstore")
    made = RangeServer(long.read_bytes())
    yield made
    made.close()
    end_of_downloads()  # which would still write to their copies while another test watches who writes


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for local copies that does not exist yet."""
    return tmp_path / "cache"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One retry, where users wait for a minute; a busy machine may take a second over any answer."""
    monkeypatch.setattr(store, "RETRIES", 1)

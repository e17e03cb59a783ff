"""The share of a file in the page cache, and dropping it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from benchmarks.cache import drop, resident_share


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(os.urandom(64 * mmap.PAGESIZE + 5))
    return path


def on_a_disk(path):
    """Files of a memory file system never leave memory."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    under = [m for m in mounts if os.path.commonpath([m[1], path]) == m[1]]
    return max(under, key=lambda m: len(m[1]))[2] not in ("tmpfs", "ramfs")


def test_a_file_just_written_is_in_memory(file):
    assert resident_share(file) == 1.0


def test_an_empty_file_is_not(tmp_path):
    (tmp_path / "empty").touch()
    assert resident_share(tmp_path / "empty") == 0.0


def test_a_dropped_file_is_gone_and_comes_back_as_it_is_read(file):
    if not on_a_disk(file):
        pytest.skip("the temporary folder lies in memory")
    assert drop(file) < 0.1
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
    os.pread(descriptor, 1, 32 * mmap.PAGESIZE)
    assert resident_share(file) == pytest.approx(1 / 65)
    os.close(descriptor)
    file.read_bytes()
    assert resident_share(file) == 1.0


def test_mapped_pages_stay_and_that_is_seen(file):
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) > 0
        assert drop(file) == 1.0


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(OSError, match="nothing"):
        drop(tmp_path / "nothing")

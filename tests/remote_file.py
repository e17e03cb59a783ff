"""For tests of reading from a URL: a file of about 15 blocks, and loaders of it."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffcv_gpu.fields import IntField, NDArrayField
from ffcv_gpu.loader import Loader
from ffcv_gpu.readers.remote import store
from ffcv_gpu.readers.remote.mirror import BLOCK_BYTES
from ffcv_gpu.writer import DatasetWriter

#: number of samples, and the length of their vectors: a block holds about four, and most cross two blocks
N, LENGTH = 42, 70_000


def write_long(path: Path) -> Path:
    """Write `N` samples, each a long vector and its row number; return `path`."""
    rng = np.random.default_rng(0)
    samples = [(rng.standard_normal(LENGTH, np.float32), i) for i in range(N)]
    fields = {"vector": NDArrayField(np.dtype("float32"), (LENGTH,)), "label": IntField()}
    writer = DatasetWriter(path, fields, num_workers=1, progress=False, page_size=1 << 21)
    writer.from_indexed_dataset(samples)
    return path


def long_loader(name: Any, **options: Any) -> Loader:
    """Return a loader of the file or its URL."""
    return Loader(name, **{"batch_size": 4, "num_workers": 2, "drop_last": False, "seed": 3, **options})


def batches(loader: Any) -> list[tuple[Any, ...]]:
    """Return all batches of an epoch as arrays."""
    return [tuple(np.asarray(part).copy() for part in batch) for batch in loader]


def same(these: list[tuple[Any, ...]], those: list[tuple[Any, ...]]) -> bool:
    """Return whether all batches are equal in all outputs."""
    return len(these) == len(those) and all(
        np.array_equal(one, other)
        for batch, wanted in zip(these, those, strict=True)
        for one, other in zip(batch, wanted, strict=True)
    )


def blocks_of(ranges: list[tuple[int, int]]) -> list[int]:
    """Return the blocks of each of the byte ranges."""
    return [b for begin, end in ranges for b in range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES))]


def twice(ranges: list[tuple[int, int]]) -> list[int]:
    """Return the blocks that occur in several of the byte ranges."""
    blocks = blocks_of(ranges)
    return [block for block in set(blocks) if blocks.count(block) > 1]


def threads_that_download() -> list[threading.Thread]:
    """Return the threads that fetch blocks, for any loader, or write them to the disk at their end."""
    return [thread for thread in threading.enumerate() if thread.name == "ffcv_gpu-download"]


def end_of_downloads() -> None:
    """Wait until these threads have ended, which they do once nothing is to be fetched."""
    for thread in threads_that_download():
        thread.join(30)


def may_be_silent(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set how long a server may be silent, in stores opened from now on."""
    monkeypatch.setattr(store, "SILENCE", timedelta(seconds=seconds))

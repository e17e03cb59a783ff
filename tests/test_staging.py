"""What lies in memory is compared with the sums that the file carries: by the instruction, or without it."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest

from ffcv_gpu.kernels import crc32c_cpu
from ffcv_gpu.plan import Payloads
from ffcv_gpu.staging import Staged, corrupt_rows


@pytest.mark.parametrize("usable", [False, pytest.param(True, marks=pytest.mark.skipif(
    not crc32c_cpu.USABLE, reason="this processor has no instruction for CRC32C"))])  # fmt: skip
def test_corrupt_rows_are_those_with_other_bytes(usable, monkeypatch):
    monkeypatch.setattr(crc32c_cpu, "USABLE", usable)
    stored = np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8)
    offsets, lengths = np.array([0, 7, 20_000, 49_999, 3]), np.array([7, 19_000, 29_000, 1, 0])
    sums = [google_crc32c.value(stored[o : o + n].tobytes()) for o, n in zip(offsets, lengths, strict=True)]
    staged = Staged(stored, offsets, Payloads(offsets, lengths, np.array(sums, np.uint32)))
    assert corrupt_rows(staged) == []
    stored[[25_000, 49_999]] ^= 1
    assert corrupt_rows(staged) == [2, 3]
    unsummed = Staged(stored, offsets, Payloads(offsets, lengths, None))
    assert corrupt_rows(unsummed) == []

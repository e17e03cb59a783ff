"""CRC32C of payloads against google-crc32c: at every place, around every length where the way changes."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest

from ffcv_gpu.kernels import crc32c_cpu
from ffcv_gpu.kernels.crc32c_cpu import LONG, SHORT, checksums, copy_and_sum

pytestmark = pytest.mark.skipif(not crc32c_cpu.USABLE, reason="this processor has no instruction for CRC32C")

TURNS = [3 * SHORT, 3 * LONG, 3 * (LONG + SHORT)]
LENGTHS = [*range(34), 100, *(turn + more for turn in TURNS for more in (-1, 0, 1, 13)), 110_001]


@pytest.fixture(scope="module")
def stored():
    return np.random.default_rng(0).integers(0, 256, 120_000, dtype=np.uint8)


@pytest.mark.parametrize("skew", range(8))
def test_sums_are_google_crc32cs(stored, skew):
    memory = stored[skew:]
    offsets, lengths = np.arange(len(LENGTHS)) % 9, np.array(LENGTHS)
    expected = [
        google_crc32c.value(memory[o : o + n].tobytes()) for o, n in zip(offsets, LENGTHS, strict=True)
    ]
    assert checksums(memory, offsets, lengths).tolist() == expected


def test_the_published_example():
    """RFC 3720, B.4: 32 bytes of zeros; and the usual check value."""
    memory = np.frombuffer(b"123456789" + bytes(32), np.uint8)
    found = checksums(memory, np.array([9, 0, 0]), np.array([32, 9, 0]))
    assert found.tolist() == [0x8A9136AA, 0xE3069283, 0]


@pytest.mark.parametrize(("offset", "length"), [(-1, 4), (119_999, 2), (0, -1), (0, 120_001)])
def test_payloads_outside_their_memory(stored, offset, length):
    with pytest.raises(ValueError, match="outside its memory"):
        checksums(stored, np.array([offset]), np.array([length]))


def test_one_compiled_function_serves(stored):
    numbers = np.array([0, 16], np.int32)
    numbers.flags.writeable = False
    for memory in (stored, stored[::1].view(), np.frombuffer(stored.tobytes(), np.uint8)):
        assert len(checksums(memory, numbers, numbers)) == 2
    assert len(crc32c_cpu.sum_payloads.signatures) == 1


@pytest.mark.parametrize("skew", range(8))
def test_copies_and_their_sums(stored, skew):
    offsets, lengths = np.arange(len(LENGTHS)) % 9, np.array(LENGTHS)
    memory = np.full(lengths.sum() + skew + 8, 7, np.uint8)
    out = memory[skew : skew + lengths.sum()]
    found = copy_and_sum(stored, offsets, lengths, out)
    pieces = [stored[o : o + n].tobytes() for o, n in zip(offsets, LENGTHS, strict=True)]
    assert out.tobytes() == b"".join(pieces)
    assert found.tolist() == [google_crc32c.value(piece) for piece in pieces]
    assert (memory[:skew] == 7).all() and (memory[skew + lengths.sum() :] == 7).all()


@pytest.mark.parametrize(("offset", "length"), [(-1, 4), (119_999, 2), (0, -1), (0, 120_001), (0, 101)])
def test_ranges_that_do_not_fit(stored, offset, length):
    with pytest.raises(ValueError, match="does not fit"):
        copy_and_sum(stored, np.array([offset]), np.array([length]), np.zeros(100, np.uint8))

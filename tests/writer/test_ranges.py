"""Workers get ranges that let them run in parallel, whatever the size of the samples."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from ffcv_gpu.fields import BytesField
from ffcv_gpu.writer import DatasetWriter, encoder, ranges
from ffcv_gpu.writer.parts import PART_BYTES, Part
from ffcv_gpu.writer.ranges import Ranges
from ffcv_gpu.writer.report import Tally


def part_of(samples, size):
    bounds = np.arange(samples + 1) * size
    return Part(0, samples, samples, 0, bounds.astype(np.int64).tobytes(), b"", b"", {}, Tally())


def all_of(ranges, size=None):
    taken = []
    while (bounds := ranges.take()) is not None:
        taken.append(bounds)
        if size is not None:
            ranges.learn(part_of(bounds[1] - bounds[0], size))
    return taken


@pytest.mark.parametrize("size", [None, 0, 1, 35_000, 200_000, PART_BYTES, 4 * PART_BYTES])
@pytest.mark.parametrize(
    ("start", "stop", "most", "workers"), [(0, 1, 1, 1), (7, 2400, 100, 2), (3, 90, 7, 16)]
)
def test_every_position_is_in_one_range(start, stop, most, workers, size):
    taken = all_of(Ranges(start, stop, most, workers), size)
    assert [position for bounds in taken for position in range(*bounds)] == list(range(start, stop))
    assert max(end - begin for begin, end in taken) <= most


def test_a_range_is_about_a_part():
    lengths = [end - begin for begin, end in all_of(Ranges(0, 10_000, 100, 4), 110_000)]
    assert lengths[0] == 1  # the size is not known yet
    assert lengths[1:400] == [PART_BYTES // 110_000] * 399


def test_samples_larger_than_a_part_come_one_by_one():
    assert {end - begin for begin, end in all_of(Ranges(0, 50, 100, 2), 2 * PART_BYTES)} == {1}


def test_ranges_get_shorter_towards_the_end():
    lengths = [end - begin for begin, end in all_of(Ranges(0, 2400, 100, 2), 100)]
    assert lengths[1:15] == [100] * 14
    assert lengths[15:] == sorted(lengths[15:], reverse=True)
    assert lengths[-4:] == [1] * 4


class InStep:
    """Samples of which eight processes must be fetching one at a time: each waits for the others there.

    For the first 60 of each process: later, some have none left.
    """

    fetched = 0  # in this process

    def __init__(self):
        self.all_here = multiprocessing.Barrier(8, timeout=60)

    def __len__(self):
        return 800

    def __getitem__(self, index):
        if self.fetched < 60:
            self.all_here.wait()
        self.fetched += 1
        return (bytes([index % 251]) * 6_000,)


def test_workers_do_not_take_turns(tmp_path, monkeypatch):
    """100 samples would make ten parts, of which a worker can hold four: with ranges of 100 it waits then."""
    for module in (encoder, ranges):
        monkeypatch.setattr(module, "PART_BYTES", 1 << 16)
    writer = DatasetWriter(tmp_path / "a.beton", {"x": BytesField()}, num_workers=8, progress=False)
    assert writer.from_indexed_dataset(InStep()).samples == 800

"""Several readers as one: what each is asked for, and the memory that they return together."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers import EpochRanges, JoinedPages, JoinedReader, Unscheduled
from ffcv_gpu.readers.remote.schedule import plan_blocks

BASES, FIRSTS = np.array([0, 1000, 1000, 5000]), np.array([0, 3, 3, 4])


class Memory:
    """A reader of an array, which notes what it is asked for."""

    def __init__(self, number, size, keeps=True):
        self.data, self.keeps, self.asked, self.begun = np.full(size, number, np.uint8), keeps, [], None
        self.data[:3] = 7, 8, 9

    def locate(self, offsets, lengths):
        self.asked.append((offsets.tolist(), lengths.tolist()))
        return (self.data, offsets) if self.keeps else None

    def read_into(self, offsets, lengths, out):
        self.asked.append((offsets.tolist(), lengths.tolist()))
        out[:] = np.concatenate([self.data[o : o + n] for o, n in zip(offsets, lengths, strict=True)])

    def view(self, offset, length):
        if offset < 0 or offset + length > self.data.size:
            raise ReadError(f"{offset} is outside")
        return self.data[offset : offset + length]

    def begin(self, ranges):
        self.begun = ranges
        return Unscheduled(self)


class Scheduled:
    """An epoch that reads ahead, and notes what it is told."""

    def __init__(self, reader):
        self.reader, self.told = reader, []

    def batch(self, index):
        return self.reader

    def passed(self, index):
        self.told.append(index)

    def stop(self):
        self.told.append("stop")

    def close(self):
        self.told.append("close")


def made(*keeps):
    """Return a reader of four files, of which the second one has no place, and the four readers."""
    sizes = (900, 10, 3000, 50)
    readers = [Memory(number, size, keeps[number] if keeps else True) for number, size in enumerate(sizes)]
    return JoinedReader(readers, BASES, FIRSTS), readers


def test_each_file_is_asked_once_with_offsets_of_its_own():
    reader, (one, none, two, three) = made()
    offsets, lengths = np.array([5010, 1000, 10, 5003, 3999]), np.array([40, 3, 5, 0, 1])
    memory, places = reader.locate(offsets, lengths)
    assert not memory.flags.writeable
    assert [memory[at] for at in places] == [3, 7, 0, 3, 2]
    assert one.asked == [([10], [5])] and none.asked == []
    assert two.asked == [([0, 2999], [3, 1])] and three.asked == [([10, 3], [40, 0])]


def test_ranges_that_follow_one_another_in_a_file_are_read_together():
    reader, (one, _, two, _) = made()
    out = np.empty(9, np.uint8)
    reader.read_into(np.array([0, 4, 1001, 1003, 2]), np.array([2, 1, 2, 3, 1]), out)
    assert out.tolist() == [7, 8, 0, 8, 9, 2, 2, 2, 9]
    assert one.asked == [([0, 4], [2, 1]), ([2], [1])] and two.asked == [([1, 3], [2, 3])]


def test_if_one_keeps_nothing_in_memory_nothing_is_located():
    reader, _ = made(True, True, False, True)
    assert reader.locate(np.array([0, 1000]), np.array([1, 1])) is None
    memory, places = reader.locate(np.array([0, 5000]), np.array([1, 1]))
    assert memory[places].tolist() == [7, 7]


def test_nothing_is_asked_for_nothing():
    reader, readers = made()
    memory, places = reader.locate(np.empty(0, np.int64), np.empty(0, np.int64))
    assert memory.size == places.size == 0
    reader.read_into(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))
    assert all(part.asked == [] for part in readers)


def test_the_memory_lives_as_long_as_it_is_referenced():
    reader, readers = made()
    memory, places = reader.locate(np.array([0, 1000, 5000]), np.array([3, 3, 3]))
    owners = [weakref.ref(part.data) for part in readers if part.asked]
    view = memory[places[1] : places[1] + 3]
    del reader, readers, memory
    gc.collect()
    assert view.tolist() == [7, 8, 9] and all(owner() is not None for owner in owners)
    del view
    gc.collect()
    assert all(owner() is None for owner in owners)


def test_a_range_outside_is_refused_by_its_file():
    reader, _ = made()
    for offset in (-1, 899, 5049, 1 << 62):
        with pytest.raises(ReadError, match="is outside"):
            reader.view(offset, 2)


def test_each_file_learns_what_an_epoch_reads_of_it():
    reader, (one, none, two, three) = made()
    offsets = np.array([10, 20, 30, 1040, 5000, 5010])
    lengths = np.array([1, 2, 3, 4, 5, 6])
    batches = [np.array([5, 0, 3]), np.array([4]), np.array([1, 2])]
    assert isinstance(reader.begin(EpochRanges(batches, [(offsets, lengths)], 2)), Unscheduled)
    expected = {
        one: ([[0], [], [1, 2]], [10, 20, 30], [1, 2, 3]), none: ([[], [], []], [], []),
        two: ([[0], [], []], [40], [4]), three: ([[1], [0], []], [0, 10], [5, 6]),
    }  # fmt: skip
    for part, (ids, starts, sizes) in expected.items():
        ranges = part.begun
        assert [batch.tolist() for batch in ranges.batches] == ids and len(ranges.batches) == 3
        assert [ranges.batches[k].tolist() for k in range(3)] == ids
        assert [batch.tolist() for batch in ranges.batches[1:]] == ids[1:]
        by_batch = [(sample, number) for number, batch in enumerate(ids) for sample in batch]
        assert list(zip(*map(list, ranges.flat()), strict=True)) == by_batch
        ((found, counts),) = ranges.fields
        assert (found.tolist(), counts.tolist(), ranges.in_flight) == (starts, sizes, 2)


def test_more_files_do_not_look_at_the_batches_more_often():
    """512 files and the 5,000 batches of 1.28 million samples took 36 s at the start of each epoch."""
    looks, counts = [], []

    class Batches(list):
        def __getitem__(self, index):
            looks.append(index)
            return super().__getitem__(index)

        def __iter__(self):
            return map(self.__getitem__, range(len(self)))

    for files in (1, 60):
        looks.clear()
        readers = [Memory(number, 100) for number in range(files)]
        reader = JoinedReader(readers, np.arange(files) * 100, np.arange(files))
        batches = Batches(np.array([k % files, 0]) for k in range(10))
        reader.begin(EpochRanges(batches, [(np.arange(files) * 100, np.full(files, 9))], 2))
        plans = [plan_blocks(part.begun, np.ones(1, np.bool_)) for part in readers]
        assert [plan.blocks.size for plan in plans] == [1] * min(files, 10) + [0] * (files - 10)
        counts.append(len(looks))
    assert counts[0] == counts[1]


def test_an_epoch_that_reads_ahead_in_one_file_is_told_by_all(monkeypatch):
    reader, (_, _, two, _) = made()
    epochs = []
    monkeypatch.setattr(two, "begin", lambda ranges: epochs.append(Scheduled(two)) or epochs[0])
    whole = reader.begin(EpochRanges([np.array([0])], [], 1))
    assert whole.batch(0).view(1001, 2).tolist() == [8, 9] and whole.batch(0).view(0, 1) == [7]
    whole.passed(4)
    whole.stop()
    whole.close()
    assert epochs[0].told == [4, "stop", "close"]


def test_pages_of_several_files():
    class Page:
        def __init__(self, number):
            self.number, self.closed = number, False

        def read(self, begin, end, buffer):
            buffer[:2] = bytes([self.number, begin])
            return end

        def close(self):
            self.closed = True

    files, buffer = [Page(0), Page(1)], memoryview(bytearray(2))
    pages = JoinedPages(files, [0, 100])
    assert (pages.read(99, 100, buffer), bytes(buffer)) == (100, b"\x00\x63")
    assert (pages.read(100, 107, buffer), bytes(buffer)) == (7, b"\x01\x00")
    pages.close()
    assert all(page.closed for page in files)

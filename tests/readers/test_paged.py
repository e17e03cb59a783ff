"""The page cache against the plain bytes of a file, and with a disk that fails."""

import errno
import os
import threading
import time
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pytest

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers import EpochRanges, PagedReader, PageFile, PositionedReader
from ffcv_gpu.readers.paged import cache as cache_module
from ffcv_gpu.readers.paged import storage

PAGE, PAGES, EACH = 16384, 9, 12
REAL = os.preadv


@pytest.fixture
def data(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, PAGE * PAGES + 100, dtype=np.uint8)
    content.tofile(tmp_path / "data")
    return str(tmp_path / "data"), content


def payloads(seed=0):
    """Twelve payloads in each page but the first, the third of each page empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, PAGE // EACH, (PAGES - 1) * EACH)
    lengths[2::EACH] = 0
    starts = np.cumsum(lengths.reshape(-1, EACH), 1) - lengths.reshape(-1, EACH)
    offsets = (starts + PAGE * np.arange(1, PAGES)[:, None]).reshape(-1)
    return np.where(lengths > 0, offsets, 0), lengths


OFFSETS, LENGTHS = payloads()
ORDERS = {
    "sequential": np.arange(OFFSETS.size),
    "random": np.random.default_rng(1).permutation(OFFSETS.size),
    "twice": np.tile(np.arange(OFFSETS.size), 2),
}


def ranges(order="sequential", batch=7):
    ids = ORDERS[order]
    split = [ids[i : i + batch] for i in range(0, ids.size, batch)]
    return EpochRanges(split, [(OFFSETS, LENGTHS)], 2)


def paged(path, pages, direct=True):
    positioned = PositionedReader(path)
    file = PageFile(path, positioned.descriptor, direct=direct)
    return PagedReader(path, positioned, file, page_bytes=PAGE, cache_bytes=pages * PAGE)


def bytes_of(content, ids):
    return np.concatenate([content[OFFSETS[i] : OFFSETS[i] + LENGTHS[i]] for i in ids])


def read_batch(epoch, index, ids):
    """Read one batch both ways; return its bytes."""
    reader, out = epoch.batch(index), np.empty(LENGTHS[ids].sum(), np.uint8)
    found = reader.locate(OFFSETS[ids], LENGTHS[ids])
    reader.read_into(OFFSETS[ids], LENGTHS[ids], out)
    if found is not None:
        memory, where = found
        assert not memory.flags.writeable
        there = [memory[at : at + n] for at, n in zip(where, LENGTHS[ids], strict=True)]
        assert np.array_equal(np.concatenate(there), out)
    return out


def read_all(reader, content, told):
    epoch = reader.begin(told)
    try:
        for index, ids in enumerate(told.batches):
            assert np.array_equal(read_batch(epoch, index, ids), bytes_of(content, ids))
            epoch.passed(index)
    finally:
        epoch.stop()
        epoch.close()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("pages", [0, 1, 2, 4, 20])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_in_every_size_of_cache(data, order, pages, direct):
    reader = paged(data[0], pages, direct)
    for batch in (1, 7, 200):
        read_all(reader, data[1], ranges(order, batch))
    reader.close()


def test_batches_may_be_read_from_many_threads_at_once(data):
    """Two batches in flight, each cut into lanes, as the loader does it."""
    reader, told = paged(data[0], 4), ranges("random", 16)
    epoch, wrong = reader.begin(told), []

    def lane(index, ids):
        if not np.array_equal(read_batch(epoch, index, ids), bytes_of(data[1], ids)):
            wrong.append(index)

    running = []
    for index, ids in enumerate(told.batches):
        lanes = [threading.Thread(target=lane, args=(index, ids[part::4])) for part in range(4)]
        for thread in lanes:
            thread.start()
        running.append(lanes)
        if len(running) == 2:
            for thread in running.pop(0):
                thread.join()
            epoch.passed(index - 1)
    for thread in running[0]:
        thread.join()
    epoch.stop()
    epoch.close()
    assert not wrong


def test_memory_is_bounded_and_gone_after_the_epoch(data, monkeypatch):
    sizes, arenas = [], weakref.WeakSet()
    real = storage.Arena.__init__

    def counted(self, count, size):
        sizes.append(count * size)
        arenas.add(self)
        real(self, count, size)

    monkeypatch.setattr(storage.Arena, "__init__", counted)
    reader = paged(data[0], 3)
    for _ in range(20):
        read_all(reader, data[1], ranges("sequential"))
        assert not arenas
    assert sizes == [3 * PAGE] * 20


def test_threads_and_descriptors_are_flat(data):
    reader = paged(data[0], 3)
    read_all(reader, data[1], ranges())
    threads, files = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    for number in range(50):
        epoch = reader.begin(ranges("random"))
        if number % 2:
            read_batch(epoch, 0, ranges("random").batches[0])
        epoch.stop()
        epoch.close()
        assert threads.issuperset(threading.enumerate())  # one of an earlier test may end meanwhile
    assert files.issuperset(os.listdir("/proc/self/fd"))


def test_pages_are_read_ahead_while_nobody_asks(data):
    reader, told = paged(data[0], 20), ranges()
    epoch = reader.begin(told)
    read_batch(epoch, 0, told.batches[0])
    _, cache = epoch.ready()
    deadline = time.monotonic() + 20
    while not (cache._states == cache_module._State.READY).all():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    epoch.stop()
    epoch.close()


# ---- a disk that fails


def test_a_failing_page_leaves_its_good_payloads(data, monkeypatch, caplog):
    """Bytes 4096 to 8191 of page 2 cannot be read: payloads there fail by name, those beside are read."""
    low, high = 2 * PAGE + 4096, 2 * PAGE + 8192

    def broken(file, views, at):
        if at < high and at + len(views[0]) > low:
            raise OSError(errno.EIO, "Input/output error")
        return REAL(file, views, at)

    monkeypatch.setattr(os, "preadv", broken)
    epoch = paged(data[0], 4).begin(ranges(batch=1))
    failed = 0
    for index, (sample,) in enumerate(ranges(batch=1).batches):
        begin, end = OFFSETS[sample], OFFSETS[sample] + LENGTHS[sample]
        if begin < high and end > low:
            failed += 1
            message = rf"{data[0]}: cannot read {LENGTHS[sample]} bytes at {begin}: .*Input/output error"
            with pytest.raises(ReadError, match=message):
                read_batch(epoch, index, np.array([sample]))
        else:
            read = read_batch(epoch, index, np.array([sample]))
            assert np.array_equal(read, data[1][begin:end])
        epoch.passed(index)
    epoch.stop()
    epoch.close()
    assert failed >= 3
    assert "reading the payloads there one by one" in caplog.text


def test_a_file_truncated_after_opening_is_an_error(data):
    reader, told = paged(data[0], 4), ranges(batch=EACH)
    os.truncate(data[0], 5 * PAGE + 10)
    epoch = reader.begin(told)
    for index in range(4):  # pages 1 to 4
        read_batch(epoch, index, told.batches[index])
        epoch.passed(index)
    with pytest.raises(ReadError, match=f"ends at byte {5 * PAGE + 10}, inside a payload"):
        read_batch(epoch, 4, told.batches[4])
    epoch.stop()
    epoch.close()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("got", [1, 1000, 4096, 5000])
def test_short_reads_are_continued(data, monkeypatch, got, direct):
    monkeypatch.setattr(os, "preadv", lambda file, views, at: min(got, REAL(file, views, at)))
    read_all(paged(data[0], 3, direct), data[1], ranges(batch=50))


def test_without_direct_io_pages_are_read_all_the_same(data, monkeypatch):
    real = os.open

    def refused(path, flags, *more):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refused)
    reader = paged(data[0], 3)
    assert not reader.file.direct
    read_all(reader, data[1], ranges())


def test_direct_io_that_is_refused_while_reading_falls_back(data, monkeypatch):
    reader = paged(data[0], 3)
    if not reader.file.direct:
        pytest.skip("this file system has no direct I/O")

    def refused(file, views, at):
        if file == reader.file._direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return REAL(file, views, at)

    monkeypatch.setattr(os, "preadv", refused)
    read_all(reader, data[1], ranges())


def test_another_file_of_the_same_name_is_not_read(data, tmp_path):
    """Both ways of reading have the file that was there first."""
    positioned = PositionedReader(data[0])
    (tmp_path / "other").write_bytes(bytes(len(data[1])))
    os.replace(tmp_path / "other", data[0])
    file = PageFile(data[0], positioned.descriptor, direct=True)
    reader = PagedReader(data[0], positioned, file, page_bytes=PAGE, cache_bytes=2 * PAGE)
    read_all(reader, data[1], ranges())


def test_what_goes_wrong_in_a_reader_thread_reaches_the_batch(data, monkeypatch):
    def broken(*_):
        raise MemoryError("no memory for a page")

    monkeypatch.setattr(storage.PageFile, "read", broken)
    epoch = paged(data[0], 3).begin(ranges())
    with pytest.raises(MemoryError, match="no memory for a page"):
        read_batch(epoch, 0, ranges().batches[0])
    epoch.stop()
    epoch.close()


@pytest.mark.parametrize("allowed", [0, 2])
def test_a_thread_that_cannot_be_had_leaves_no_other_behind(data, monkeypatch, allowed):
    real, started, before = threading.Thread.start, [], set(threading.enumerate())

    def start(thread):
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    epoch = paged(data[0], 9).begin(ranges())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            epoch.batch(0).locate(OFFSETS[:7], LENGTHS[:7])
    for thread in started:
        thread.join(20)
    assert before.issuperset(threading.enumerate())  # one of an earlier test may end meanwhile
    read_all(paged(data[0], 9), data[1], ranges())


# ---- no wait without a way out


def test_closing_ends_a_wait_for_a_disk_that_does_not_answer(data, monkeypatch, caplog):
    reading, answer, caught = threading.Event(), threading.Event(), []

    def silent(file, views, at):
        reading.set()
        assert answer.wait(60)
        return REAL(file, views, at)

    monkeypatch.setattr(os, "preadv", silent)
    epoch = paged(data[0], 3).begin(ranges())

    def wait():
        try:
            read_batch(epoch, 0, ranges().batches[0])
        except CancelledError as error:
            caught.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert reading.wait(30)
    epoch.stop()
    waiting.join(20)
    assert not waiting.is_alive()
    assert "the epoch was closed" in caught[0]
    with pytest.raises(CancelledError, match="the epoch was closed"):
        read_batch(epoch, 1, ranges().batches[1])
    # a disk that never answers does not keep the program from going on
    monkeypatch.setattr(cache_module, "PATIENCE", 0.1)
    threads = epoch._cache._threads
    epoch.close()
    assert "a read is still running" in caplog.text
    answer.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_batch_for_which_there_is_no_room_is_read_without(data):
    """Nobody says that batches have passed: all buffers stay taken, and still nothing waits for ever."""
    told = ranges()
    epoch = paged(data[0], 2).begin(told)
    for index, ids in enumerate(told.batches):
        assert np.array_equal(read_batch(epoch, index, ids), bytes_of(data[1], ids))
    epoch.stop()
    epoch.close()


def test_samples_that_no_schedule_knows_are_read_too(data):
    told = ranges()
    epoch = paged(data[0], 2).begin(told)
    strangers = told.batches[-1]
    assert np.array_equal(read_batch(epoch, 0, strangers), bytes_of(data[1], strangers))
    assert np.array_equal(read_batch(epoch, 10**6, strangers), bytes_of(data[1], strangers))
    epoch.stop()
    epoch.close()


def test_a_batch_that_passed_unread_frees_its_pages(data):
    told = ranges(batch=EACH)  # a page a batch
    epoch = paged(data[0], 2).begin(told)
    read_batch(epoch, 0, told.batches[0])
    epoch.passed(5)
    read_batch(epoch, 6, told.batches[6])
    schedule, cache = epoch.ready()
    assert (cache._states[schedule.lasts <= 5] == cache_module._State.GONE).all()
    assert np.array_equal(read_batch(epoch, 7, told.batches[7]), bytes_of(data[1], told.batches[7]))
    epoch.stop()
    epoch.close()


def test_too_small_a_cache_is_said_once(data, caplog):
    reader = paged(data[0], 3)
    for _ in range(2):
        read_all(reader, data[1], ranges("random"))
    (record,) = caplog.records
    assert "has 8 pages of 0 MB open at a time and the cache holds 3" in record.getMessage()


def test_sequential_reading_has_nothing_to_say(data, caplog):
    read_all(paged(data[0], 3), data[1], ranges("sequential"))
    assert not caplog.records


@pytest.mark.parametrize("pages", [1, 2, 4, 20])
@pytest.mark.parametrize("order", ORDERS)
def test_the_later_of_two_batches_in_flight_waits_for_nobody(data, order, pages):
    """The loader may finish reading a batch before it begins the one in front of it."""
    told = ranges(order, 16)
    epoch = paged(data[0], pages).begin(told)
    for index in range(1, len(told.batches)):
        epoch.passed(index - 2)
        for number in (index, index - 1):
            ids = told.batches[number]
            assert np.array_equal(read_batch(epoch, number, ids), bytes_of(data[1], ids))
    epoch.stop()
    epoch.close()

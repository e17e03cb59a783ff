"""Failures in mid-epoch, of object, server, network and disk: each has a clear error, and nothing hangs."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers.base import EpochRanges
from ffcv_gpu.readers.remote import downloads
from ffcv_gpu.readers.remote.file import RemoteFile
from ffcv_gpu.readers.remote.mirror import BLOCK_BYTES, Mirror
from ffcv_gpu.readers.remote.store import Version
from tests.remote_file import (
    N,
    batches,
    end_of_downloads,
    long_loader,
    may_be_silent,
    same,
    threads_that_download,
)
from tests.small_file import run_program

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("impatient")]

#: a block in the middle of the payloads, which opening does not need
BAD = 6
#: blocks of payloads alone
PAYLOADS = range(4 * BLOCK_BYTES, 12 * BLOCK_BYTES)


def in_bad(begin, end):
    """Return whether a request includes bytes of the bad block."""
    return begin < (BAD + 1) * BLOCK_BYTES and end > BAD * BLOCK_BYTES


def in_payloads(begin, end):
    return begin in PAYLOADS


@pytest.fixture
def single(monkeypatch):
    """One request per block, so that a failing one affects no other block."""
    monkeypatch.setattr(downloads, "RUN_BLOCKS", 1)


def test_a_failure_that_passes_is_not_noticed(long, server, cache):
    failed = []

    def once(method, begin, end):
        if in_payloads(begin, end) and not failed:
            failed.append(begin)
            return 503
        return None

    remote = long_loader(server.url, cache_dir=cache)
    server.behave = once
    assert same(batches(long_loader(long)), batches(remote))
    assert failed


@pytest.mark.usefixtures("single", "no_thread_is_left")
@pytest.mark.parametrize("how", [503, "cut", "short", "drop", "hang"])
def test_a_block_that_cannot_be_had_ends_the_epoch(server, cache, monkeypatch, how):
    if how == "hang":
        may_be_silent(monkeypatch, 1)
    remote = long_loader(server.url, cache_dir=cache)
    server.behave = lambda method, begin, end: how if in_bad(begin, end) else None
    begin = time.monotonic()
    said = f"^{server.url}: sample [0-9]+, field 'vector'.*{server.url}: cannot fetch"
    with pytest.raises(ReadError, match=said) as caught:
        batches(remote)
    assert "delete" not in str(caught.value), "the copy is good"
    assert time.monotonic() - begin < 60
    assert not remote._running or not loader_threads()


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ffcv_gpu-conductor")]


def of_the_bad_block(long):
    """Return the rows of the samples with bytes in the bad block."""
    payloads = Dataset(str(long), {}, os_cache=True).payloads("vector")
    behind = payloads.offsets < (BAD + 1) * BLOCK_BYTES
    return np.flatnonzero(behind & (payloads.offsets + payloads.lengths > BAD * BLOCK_BYTES)).tolist()


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("policy", ["blank", "skip"])
def test_a_policy_is_for_the_samples_of_the_block(long, server, cache, policy):
    remote = long_loader(server.url, cache_dir=cache, on_error=policy)
    server.behave = lambda method, begin, end: 503 if in_bad(begin, end) else None
    local, bad = batches(long_loader(long)), of_the_bad_block(long)
    assert len(bad) > 2
    for (vectors, labels), (wanted, rows) in zip(batches(remote), local, strict=True):
        for vector, label, want, row in zip(vectors, labels[:, 0], wanted, rows[:, 0], strict=True):
            if row not in bad:
                assert label == row and np.array_equal(vector, want)
            elif policy == "blank":
                assert label == row and not vector.any()
            else:
                assert label not in bad
    assert {(entry.sample, entry.kind) for entry in remote.bad_samples()} == {(row, "read") for row in bad}
    server.behave = lambda method, begin, end: None
    assert same(batches(remote), local), "the next epoch tries again"


@pytest.mark.parametrize("policy", ["raise", "blank"])
def test_an_object_that_was_replaced_is_no_fault_of_a_sample(long, server, cache, policy):
    remote = long_loader(server.url, cache_dir=cache, on_error=policy)
    changed = bytearray(long.read_bytes())
    changed[BAD * BLOCK_BYTES] ^= 1
    server.data, server.tag = bytes(changed), '"two"'
    with pytest.raises(ReadError, match=f"{server.url} was replaced while it was being read"):
        batches(remote)
    again = long_loader(server.url, cache_dir=cache, on_error="blank")
    batches(again)
    (damaged,) = again.bad_samples()
    assert damaged.kind == "checksum" and f"{cache}" in damaged.reason and "delete it to" in damaged.reason
    assert len(list(cache.glob("*.beton"))) == 2


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("how", [400, 403, 404, 416])
def test_access_that_is_lost_ends_the_epoch_whatever_the_policy(server, cache, how):
    remote = long_loader(server.url, cache_dir=cache, on_error="blank")
    server.behave = lambda method, begin, end: how if in_bad(begin, end) else None
    with pytest.raises(ReadError, match=f"{how}"):
        batches(remote)


def test_a_network_that_is_gone_ends_the_epoch_whatever_the_policy(server, cache):
    remote = long_loader(server.url, cache_dir=cache, on_error="skip")
    server.behave = lambda method, begin, end: "drop"
    with pytest.raises(ReadError, match="check the network"):
        batches(remote)


@pytest.mark.usefixtures("single", "no_thread_is_left")
def test_closing_ends_all_waiting_at_once(server, cache, monkeypatch):
    may_be_silent(monkeypatch, 60)
    remote = long_loader(server.url, cache_dir=cache, num_workers=1, batch_size=21)
    # where one block fails at once, the payloads of a lane are read one by one
    server.behave = lambda method, begin, end: "short" if begin == 3 * BLOCK_BYTES else "hang"
    running = iter(remote)
    while 3 * BLOCK_BYTES not in [begin for begin, _ in server.fetched()]:
        time.sleep(0.01)
    time.sleep(0.2)
    begin = time.monotonic()
    remote.close()
    assert time.monotonic() - begin < 30
    assert not loader_threads()
    with pytest.raises((StopIteration, CancelledError)):
        next(running)


def test_a_slow_block_delays_nobody_who_waits_for_another(server, cache, monkeypatch):
    may_be_silent(monkeypatch, 80)
    cache.mkdir()
    file, asked, go_on = RemoteFile(server.url, str(cache)), threading.Event(), threading.Event()

    def slow(method, begin, end):
        if in_bad(begin, end):
            asked.set()
            go_on.wait(60)

    server.behave = slow
    bad = threading.Thread(target=file.bring_range, args=(BAD * BLOCK_BYTES, BAD * BLOCK_BYTES + 1))
    bad.start()
    assert asked.wait(30)
    begin = time.monotonic()
    file.bring_range((BAD + 2) * BLOCK_BYTES, (BAD + 2) * BLOCK_BYTES + 1)
    assert not go_on.is_set() and bad.is_alive() and time.monotonic() - begin < 40
    go_on.set()
    bad.join(30)


def test_who_takes_too_long_over_a_block_is_not_waited_for(long, server, cache, monkeypatch):
    remote = long_loader(server.url, cache_dir=cache)
    other = Mirror(str(cache), server.url, Version(long.stat().st_size, server.tag))
    assert other.claim(BAD)
    monkeypatch.setattr(downloads, "STALE", 0.3)
    assert same(batches(long_loader(long)), batches(remote))
    assert remote.stats().stages["read"].seconds > 0.3, "waiting for it is reading"


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("policy", ["raise", "blank"])
def test_a_disk_that_fills_up_is_no_fault_of_a_sample(server, cache, monkeypatch, policy):
    remote, real = long_loader(server.url, cache_dir=cache, on_error=policy), os.pwrite

    def full(file, data, at):
        if in_bad(at, at + 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ReadError, match=f"local copy {cache}.*cannot be written: No space left"):
        batches(remote)


def does_not_keep(file):
    """Stands for os.fdatasync on a failing disk."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.usefixtures("single")
def test_a_disk_that_does_not_keep_what_was_written_is_named(long, server, cache, monkeypatch):
    remote = long_loader(server.url, cache_dir=cache, on_error="blank")
    end_of_downloads()  # of what opening needed: their failure is not this epoch's
    known = threading.Event()

    def late(method, begin, end):
        """Without one block, the epoch cannot end before the disk has failed."""
        if begin == 11 * BLOCK_BYTES:
            known.wait(60)

    server.behave = late
    monkeypatch.setattr(downloads, "KEEP_BYTES", BLOCK_BYTES)
    with monkeypatch.context() as bad:
        bad.setattr(os, "fdatasync", does_not_keep)
        with pytest.raises(ReadError, match=f"local copy {cache}.*cannot be written: Input/output error"):
            batches(remote)
        known.set()
    assert same(batches(remote), batches(long_loader(long))), "the next epoch tries again"


def test_a_failure_of_the_last_epoch_does_not_end_the_next(long, server, cache, monkeypatch):
    """A thread of the epoch that failed is still flushing when the next one has begun."""
    flushing, go_on = threading.Event(), threading.Event()

    def slow(file):
        flushing.set()
        assert go_on.wait(30)
        does_not_keep(file)

    cache.mkdir()
    file = RemoteFile(server.url, str(cache))
    end_of_downloads()
    monkeypatch.setattr(downloads, "KEEP_BYTES", BLOCK_BYTES)
    with monkeypatch.context() as bad:
        bad.setattr(os, "fdatasync", slow)
        file.bring_range(BAD * BLOCK_BYTES, (BAD + 1) * BLOCK_BYTES)
        assert flushing.wait(30)
        file.downloads.retry()  # as the next epoch does
        go_on.set()
        end_of_downloads()
    file.check()
    for _ in file.bring_all():
        pass
    with open(file.path, "rb") as copy:
        assert copy.read() == long.read_bytes()


def test_a_failure_is_forgotten_once_another_process_fetched_the_rest(long, server, cache):
    remote = long_loader(server.url, cache_dir=cache)
    server.behave = lambda method, begin, end: 403
    with pytest.raises(ReadError, match="403"):
        batches(remote)
    server.behave = lambda method, begin, end: None
    batches(long_loader(server.url, cache_dir=cache))
    assert same(batches(remote), batches(long_loader(long)))


def test_what_a_failing_disk_did_not_keep_is_fetched_again(long, server, tmp_path, monkeypatch):
    """A second flush would succeed without those bytes, as Linux reports the failure once."""
    mirror = Mirror(str(tmp_path), server.url, Version(long.stat().st_size, server.tag))
    mirror.mark(BAD)
    with monkeypatch.context() as bad:
        bad.setattr(os, "fdatasync", does_not_keep)
        with pytest.raises(ReadError, match="Input/output error"):
            mirror.keep()
    assert not mirror.has(BAD)
    mirror.mark(BAD)
    mirror.keep()
    assert mirror.has(BAD)


def no_memory(*_):
    raise MemoryError("no more")


def test_the_death_of_a_thread_reaches_the_consumer_and_the_next_epoch_tries_again(
    long, server, cache, monkeypatch
):
    remote = long_loader(server.url, cache_dir=cache)
    with monkeypatch.context() as bad:
        bad.setattr(Mirror, "mark", no_memory)
        with pytest.raises(MemoryError, match="no more"):
            batches(remote)
        end_of_downloads()
    assert not remote.dataset.remotes[0].downloads._busy
    assert same(batches(remote), batches(long_loader(long)))


def test_an_epoch_that_cannot_be_started_leaves_no_thread(long, server, cache, monkeypatch):
    remote = long_loader(server.url, cache_dir=cache)
    with monkeypatch.context() as bad:
        bad.setattr("ffcv_gpu.loader.loader.StreamedRun", no_memory)
        with pytest.raises(MemoryError, match="no more"):
            iter(remote)
    assert same(batches(remote), batches(long_loader(long)))
    end_of_downloads()
    assert not threads_that_download()


def test_a_thread_of_the_last_epoch_that_dies_does_not_end_the_next(long, server, cache, monkeypatch):
    cache.mkdir()
    file, dying, go_on = RemoteFile(server.url, str(cache)), threading.Event(), threading.Event()
    end_of_downloads()

    def late(self, block):
        dying.set()
        assert go_on.wait(30)
        no_memory()

    size = long.stat().st_size
    plan = file.plan(EpochRanges([np.zeros(1, np.int64)], [(np.array([0]), np.array([size]))], 1))
    with monkeypatch.context() as bad:
        bad.setattr(Mirror, "mark", late)
        file.downloads.ask(plan, 0)
        assert dying.wait(30)
        file.downloads.drop(plan)
        file.downloads.retry()  # as the next epoch does
        go_on.set()
        end_of_downloads()
    file.bring_range(0, size)
    with open(file.path, "rb") as copy:
        assert copy.read() == long.read_bytes()


def test_a_program_may_end_while_a_server_does_not_answer(server, cache):
    """The pool of a loader's threads is waited for before anything that `atexit` calls."""
    server.behave = lambda method, begin, end: "hang" if in_payloads(begin, end) else None
    result = run_program(
        f"""
        from datetime import timedelta
        from ffcv_gpu.loader import iterator
        from ffcv_gpu.readers.remote import downloads, store
        iterator.PATIENCE = downloads.EXIT_PATIENCE = 0.5
        store.SILENCE = store.SLOWEST = timedelta(minutes=9)
        running = iter(Loader({server.url!r}, 1, cache_dir={str(cache)!r}, num_workers=2))
        next(running)
        print("end of the program")
        """
    )
    assert result.returncode == 0 and result.stdout.strip() == "end of the program", result.stderr


def test_after_a_fork_only_what_is_there_can_be_read(long, server, cache, monkeypatch):
    """With a faked process id: a real child could only hang."""
    remote = long_loader(server.url, cache_dir=cache)
    parent = os.getpid()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        with pytest.raises(ReadError, match="opened before this process was forked"):
            batches(remote)
    assert same(batches(long_loader(long)), batches(remote))
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert same(batches(long_loader(long)), batches(remote))
    with pytest.raises(ReadError, match=f"forked from process {parent}, which has read from a URL"):
        long_loader(server.url, cache_dir=cache)


def test_labels_alone_fetch_nothing(server, cache):
    remote = long_loader(server.url, cache_dir=cache, pipelines={"vector": None})
    server.behave = lambda method, begin, end: 503
    assert np.array_equal(np.concatenate([labels[:, 0] for (labels,) in batches(remote)]), np.arange(N))

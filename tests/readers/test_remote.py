"""Loaders of a URL against loaders of the same file on the local disk."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.dataset.reader import Reader
from ffcv_gpu.errors import PipelineError, ReadError
from ffcv_gpu.fields import BytesField, IntField, RGBImageField
from ffcv_gpu.loader import Loader, OrderOption, ResidentLoader
from ffcv_gpu.pipeline.allocation_query import AllocationQuery
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.readers.remote import downloads
from ffcv_gpu.readers.remote.mirror import BLOCK_BYTES, Mirror
from ffcv_gpu.readers.remote.store import Version
from ffcv_gpu.writer import DatasetWriter
from tests.range_server import RangeServer
from tests.remote_file import (
    N,
    batches,
    blocks_of,
    end_of_downloads,
    long_loader,
    same,
    threads_that_download,
    twice,
)

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("order", OrderOption)
def test_batches_are_those_of_the_local_file_and_come_from_the_local_disk_the_second_time(
    long, server, cache, order
):
    local, remote = long_loader(long, order=order), long_loader(server.url, order=order, cache_dir=cache)
    assert same(batches(local), batches(remote))
    assert not twice(server.fetched())
    assert max(end - begin for begin, end in server.fetched()) > BLOCK_BYTES, "neighbours come together"
    server.requests.clear()
    assert same(batches(local), batches(remote))
    assert server.requests == []
    again = long_loader(server.url, order=order, cache_dir=cache)
    assert same(batches(long_loader(long, order=order)), batches(again))
    assert server.requests == [("HEAD", 0, 0)], "whether it is still the same"


@pytest.fixture
def two(server, long):
    """Two servers with the same file."""
    other = RangeServer(long.read_bytes())
    yield server, other
    other.close()


def wait_for_each_other(*servers):
    """Let no server give its next answer before each has been asked, for at most 15 s.

    Returns a list, to which is added how many threads download when all have been asked; None after 15 s.
    """
    together = []
    everyone = threading.Barrier(len(servers), lambda: together.append(len(threads_that_download())))

    def behave():
        first = threading.Lock()

        def answer(method, begin, end):
            if first.acquire(blocking=False):
                try:
                    everyone.wait(15)
                except threading.BrokenBarrierError:
                    together.append(None)

        return answer

    for one in servers:
        one.behave = behave()
    return together


def test_several_urls_are_opened_at_once(two, cache):
    """One after the other, 40 URLs at 0.1 s an answer took 24 s."""
    together = wait_for_each_other(*two)
    assert len(long_loader([one.url for one in two], cache_dir=cache).indices) == 2 * N
    assert len(together) == 1 and None not in together


def test_of_several_urls_the_first_one_s_error_is_raised(two, cache):
    for one, status in zip(two, (404, 403), strict=True):
        one.behave = lambda method, begin, end, status=status: status
    with pytest.raises(ReadError, match=f"^{two[0].url}"):
        long_loader([one.url for one in two], cache_dir=cache)


def test_a_batch_of_several_files_asks_all_of_them_at_once(two, cache):
    """One after the other, the first batch of 40 files at 0.5 s an answer took 20 s."""
    loader = long_loader(
        [one.url for one in two], batch_size=2, indices=[0, N], num_workers=1, cache_dir=cache
    )
    together = wait_for_each_other(*two)
    ((_, labels),) = batches(loader)
    assert labels[:, 0].tolist() == [0, 0] and len(together) == 1 and None not in together


def test_many_files_share_the_connections(two, cache, monkeypatch):
    monkeypatch.setattr(downloads, "CONNECTIONS_OF_ALL", 2)
    loader = long_loader([one.url for one in two], order=OrderOption.RANDOM, cache_dir=cache, batch_size=12)
    end_of_downloads()  # what opening needed, and of loaders that have not ended yet
    together = wait_for_each_other(*two)
    assert len(batches(loader)) == len(loader) and together == [2]


@pytest.mark.parametrize("order", OrderOption)
def test_several_urls_and_a_local_file(long, server, cache, order):
    other = RangeServer(long.read_bytes())
    local = long_loader([long] * 3, order=order)
    mixed = long_loader([server.url, long, other.url], order=order, cache_dir=cache)
    assert [line.startswith("remote: ") for line in mixed.explain().splitlines()[1:4]] == [True, True, False]
    expected = batches(local)
    assert same(batches(mixed), expected)
    assert not twice(server.fetched()) and not twice(other.fetched())
    assert server.fetched() and other.fetched()
    urls = [server.url, other.url] * 2
    size = 4 * long.stat().st_size / 1e6
    said = f"remote: {size:,.1f} of {size:,.1f} MB of 4 files are on the local disk"
    assert long_loader(urls, cache_dir=cache).explain().splitlines()[1] == said
    other.close()
    again = long_loader([server.url, long, long], order=order, cache_dir=cache)
    assert same(batches(again), expected)


def test_one_of_several_urls_is_gone(long, server, cache):
    other = RangeServer(long.read_bytes())
    mixed = long_loader([server.url, other.url], cache_dir=cache, order=OrderOption.RANDOM)
    other.behave = lambda method, begin, end: 404
    with pytest.raises(ReadError, match=re.escape(other.url)):
        batches(mixed)
    other.close()
    assert len(list(zip(range(2), long_loader(server.url, cache_dir=cache), strict=False))) == 2


def test_opening_fetches_what_is_no_payload(long, server, cache):
    dataset = Dataset(str(long), {}, os_cache=True)
    payloads = dataset.payloads("vector")
    remote = long_loader(server.url, cache_dir=cache)
    first, last = payloads.offsets.min(), (payloads.offsets + payloads.lengths).max()
    assert all(begin < first or end > last for begin, end in server.fetched())
    there = sum(end - begin for begin, end in server.fetched())
    size = long.stat().st_size
    assert there < size / 2
    said = remote.explain().splitlines()[1]
    assert said.startswith(
        f"remote: {there / 1e6:.1f} of {size / 1e6:.1f} MB are on the local disk, in {cache}"
    )


def test_a_reader_and_what_it_says_of_the_file(long, server, cache):
    local, remote = Reader(long), Reader(server.url, cache_dir=cache)
    assert local.metadata.tobytes() == remote.metadata.tobytes()
    assert local.alloc_table.tobytes() == remote.alloc_table.tobytes()
    assert remote.file_name == server.url == long_loader(server.url, cache_dir=cache).reader.file_name


def test_a_resident_dataset(make_photo, tmp_path, cache):
    path = tmp_path / "even.beton"
    writer = DatasetWriter(
        path, {"image": RGBImageField(), "label": IntField()}, num_workers=1, progress=False
    )
    writer.from_indexed_dataset([(make_photo(16, 16, i), i) for i in range(9)])
    server = RangeServer(path.read_bytes())
    local, remote = Loader(path, 3, seed=0), Loader(server.url, 3, seed=0, cache_dir=cache)
    assert same(batches(ResidentLoader(local)), batches(ResidentLoader(remote)))
    server.close()


def test_an_epoch_is_resumed_from_the_other_kind_of_file(long, server, cache):
    options = {"order": OrderOption.RANDOM, "seed": 5}
    whole = batches(long_loader(long, **options))
    for before, after in ((long, server.url), (server.url, long)):
        loader = long_loader(before, cache_dir=cache, **options)
        begun = iter(loader)
        assert same([tuple(np.asarray(part) for part in next(begun)) for _ in range(3)], whole[:3])
        state = json.loads(json.dumps(loader.state_dict()))
        begun.close()
        rest = long_loader(after, cache_dir=cache, **options)
        rest.load_state_dict(state)
        assert same(batches(rest), whole[3:])


def test_a_url_is_percent_encoded_or_not(long, server, cache, tmp_path):
    spaced = server.url.replace("folder/train", "a folder/träin")
    for url in (spaced, spaced.replace(" ", "%20").replace("ä", "%C3%A4")):
        Reader(url, cache_dir=cache)
    assert set(server.paths) == {"/a%20folder/tr%C3%A4in.beton"}
    local = tmp_path / "a folder" / "träin 1.beton"
    local.parent.mkdir()
    local.symlink_to(long)
    assert len(Reader(local.as_uri(), cache_dir=cache).metadata) == N


def test_some_rows_need_some_blocks(long, server, cache):
    rows = [1, 2, N - 2]
    local, remote = (long_loader(name, indices=rows, cache_dir=cache) for name in (long, server.url))
    assert same(batches(local), batches(remote))
    assert sum(end - begin for begin, end in server.fetched()) < long.stat().st_size / 2
    assert "0 samples" not in remote.filter("label", lambda label: label < 3).explain()


def test_two_epochs_and_two_loaders_share_one_copy(long, server, cache):
    one, other = (long_loader(server.url, cache_dir=cache, order=order) for order in list(OrderOption)[:2])
    server.requests.clear()
    for first, second, third in zip(one, one, other, strict=True):
        assert len(first[1]) == len(second[1]) == len(third[1])
    assert not twice(server.fetched())
    assert [path.suffix for path in sorted(cache.iterdir())] == [".beton", ".map"]


PROGRAM = """
import sys
from datetime import timedelta
from ffcv_gpu.readers.remote import RemoteFile, store
store.SILENCE = timedelta(minutes=9)  # else it asks again where the server is silent
for done in RemoteFile(*sys.argv[1:]).bring_all():
    print(done, flush=True)
"""
#: ranges that begin here are of payloads alone: opening does not need them
PAYLOADS = range(5 << 20, 12 << 20)


def process(root, server, cache, program=PROGRAM):
    cache.mkdir(exist_ok=True)
    command, pipe = [sys.executable, "-c", program, server.url, str(cache)], subprocess.PIPE
    return subprocess.Popen(command, cwd=root, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def test_two_processes_fetch_every_block_once(root, long, server, cache):
    server.behave = lambda method, begin, end: "slow"
    running = [process(root, server, cache) for _ in range(2)]
    for one in running:
        printed, said = one.communicate(timeout=60)
        assert (one.returncode, said, printed.split()[-1]) == (0, "", str(long.stat().st_size))
    (copy,) = cache.glob("*.beton")
    assert copy.read_bytes() == long.read_bytes()
    assert not twice(server.fetched())


def test_one_process_goes_on_where_another_was_killed(root, long, server, cache):
    held = []

    def stall_once(method, begin, end):
        if begin in PAYLOADS and not held:
            held.extend(range(begin // BLOCK_BYTES, end // BLOCK_BYTES))
            return "stall"
        return None

    server.behave = stall_once
    victim = process(root, server, cache)
    while not held:
        time.sleep(0.01)
    survivor = process(root, server, cache)
    mirror = Mirror(str(cache), server.url, Version(long.stat().st_size, server.tag))
    while not set(np.flatnonzero(mirror.absent)) <= set(held):
        time.sleep(0.01)
    assert mirror.absent[held[-1]] and not mirror.claim(held[-1])
    victim.kill()
    victim.communicate()
    printed, said = survivor.communicate(timeout=60)
    assert (survivor.returncode, said, printed.split()[-1]) == (0, "", str(long.stat().st_size))
    (copy,) = cache.glob("*.beton")
    assert copy.read_bytes() == long.read_bytes()


def test_a_copy_that_is_deleted_while_it_is_read(long, server, cache):
    remote, local = long_loader(server.url, cache_dir=cache), long_loader(long)
    begun, wanted = iter(remote), batches(local)
    first = tuple(np.asarray(part).copy() for part in next(begun))
    shutil.rmtree(cache)
    rest = [tuple(np.asarray(part).copy() for part in batch) for batch in begun]
    assert same([first, *rest], wanted)
    assert same(batches(remote), wanted)


def test_a_killed_process_leaves_what_it_fetched_and_no_more(root, long, server, cache):
    server.behave = lambda method, begin, end: "hang" if begin in PAYLOADS[3 << 20 :] else "slow"
    victim = process(root, server, cache)
    while not any(begin in PAYLOADS for begin, _ in server.fetched()):
        time.sleep(0.01)
    time.sleep(0.1)  # some pieces of a block came, others not
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    mirror = Mirror(str(cache), server.url, Version(long.stat().st_size, server.tag))
    there = set(np.flatnonzero(~mirror.absent).tolist())
    server.requests.clear()
    server.behave = lambda method, begin, end: None
    assert same(batches(long_loader(long)), batches(long_loader(server.url, cache_dir=cache)))
    # requests of the killed one may still be read, but are not for what was there
    fetched = set(blocks_of(server.fetched()))
    assert len(there) > 2 and fetched and not fetched & there


@pytest.mark.parametrize("how", ["slow", "hang"])
def test_a_program_that_ends_in_the_middle_ends_well(root, server, cache, how):
    asked = threading.Event()

    def answer(method, begin, end):
        if begin not in PAYLOADS:
            return None
        asked.set()
        return how

    server.behave = answer
    program = f"""
import sys
from ffcv_gpu.readers.remote import RemoteFile, downloads
downloads.EXIT_PATIENCE = 0.5
file = RemoteFile(*sys.argv[1:])
from ffcv_gpu.readers.remote.schedule import Plan
import numpy as np
plan = Plan(np.arange({PAYLOADS[0] >> 20}, {PAYLOADS[-1] >> 20}), np.array([7]))
file.downloads.ask(plan, 0)
sys.stdin.readline()
sys.exit(3)
"""
    running = process(root, server, cache, program)
    assert asked.wait(60)
    assert running.communicate("end now\n", timeout=60) == ("", "")
    assert running.returncode == 3


class OwnField(BytesField):
    """A custom field with a decoder of its own."""

    @staticmethod
    def from_binary(binary):
        return OwnField()

    def get_decoder_class(self):
        return FirstBytes


class FirstBytes(Operation):
    """A decoder as FFCV's are: reads payloads by pointer, past every reader."""

    def generate_code(self):
        def decode(indices, dst, metadata, storage_state):
            data = storage_state[0]  # as FFCV's `memory_read` does, which would be compiled
            for i in range(len(indices)):
                begin = int(metadata["ptr"][indices[i]])
                dst[i] = data[begin : begin + 4]
            return dst

        return decode

    def declare_state_and_memory(self, previous_state):
        state = replace(previous_state, jit_mode=False, shape=(4,), dtype=np.dtype("u1"))
        return state, AllocationQuery((4,), np.dtype("u1"))


def test_a_decoder_that_reads_by_pointer_finds_its_bytes(tmp_path, cache):
    samples = [(bytes([i]) * 400_000,) for i in range(1, 9)]
    writer = DatasetWriter(tmp_path / "own.beton", {"own": OwnField()}, num_workers=1, progress=False,
                           page_size=1 << 21)  # fmt: skip
    writer.from_indexed_dataset(samples)
    server = RangeServer((tmp_path / "own.beton").read_bytes())
    remote = long_loader(server.url, cache_dir=cache, custom_fields={"own": OwnField})
    opened = len(server.requests)
    values = np.concatenate([batch[0] for batch in batches(remote)])
    assert np.array_equal(values, np.repeat(np.arange(1, 9), 4).reshape(8, 4))
    assert len(server.requests) > opened
    server.close()
    with pytest.raises(PipelineError, match="'own': a decoder that reads the file by itself works with one"):
        long_loader([tmp_path / "own.beton"] * 2, custom_fields={"own": OwnField})


def test_an_early_end_leaves_nothing_running(server, cache):
    loader = long_loader(server.url, cache_dir=cache)
    server.behave = lambda method, begin, end: "slow"
    for _ in loader:
        break
    loader.close()
    begin = time.monotonic()
    while loader.dataset.remotes[0].downloads._threads:
        assert time.monotonic() - begin < 60
        time.sleep(0.01)
    seen = len(server.requests)
    time.sleep(0.1)
    assert len(server.requests) == seen

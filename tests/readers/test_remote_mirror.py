"""The local copy: when it is reused, replaced or removed, and which process may fetch a block."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers import EpochRanges
from ffcv_gpu.readers.remote import mirror as module
from ffcv_gpu.readers.remote.mirror import BLOCK_BYTES, HEAD_BYTES, Mirror
from ffcv_gpu.readers.remote.schedule import AHEAD_BLOCKS, blocks_of, plan_blocks
from ffcv_gpu.readers.remote.store import Version

URL = "s3://bucket/some folder/träin.beton"
SIZE = 3 * BLOCK_BYTES + 7
EVERY = np.arange(4)
#: a program that opens the same mirror
PRELUDE = f"""
import sys
from ffcv_gpu.readers.remote.mirror import Mirror, Version
mirror = Mirror(sys.argv[1], {URL!r}, Version({SIZE}, 'a'))
"""


@pytest.fixture
def made(tmp_path):
    """A mirror of four blocks, of which the second and the last have been fetched."""
    mirror = Mirror(str(tmp_path), URL, Version(SIZE, "a"))
    for block, content in ((1, b"\x01" * BLOCK_BYTES), (3, b"\x03" * 7)):
        mirror.write(block * BLOCK_BYTES, content)
        mirror.mark(block)
    return mirror


def again(made, url=URL, size=SIZE, tag="a"):
    return Mirror(os.path.dirname(made.path), url, Version(size, tag))


def test_what_is_there_is_found_again(made):
    found = again(made)
    assert found.path == made.path and os.path.basename(found.path).startswith("träin-")
    assert found.missing(EVERY).tolist() == [0, 2]
    assert found.present_bytes == BLOCK_BYTES + 7
    raw = np.fromfile(found.path, np.uint8)
    assert raw.size == SIZE and [raw[k * BLOCK_BYTES] for k in range(4)] == [0, 1, 0, 3]
    assert os.stat(found.path).st_blocks * 512 < SIZE - BLOCK_BYTES, "the rest takes no room"
    for block in (0, 2):
        made.mark(block)
    assert not found.absent.any(), "marks are seen at once"


@pytest.mark.parametrize("other", [{"tag": "b"}, {"size": SIZE - 1}, {"url": URL[1:]}])
def test_another_object_has_a_copy_of_its_own(made, other):
    fresh = again(made, **other)
    assert fresh.path != made.path and fresh.missing(EVERY).size == 4
    assert again(made).missing(EVERY).size == 2


def torn(path):
    os.truncate(path, HEAD_BYTES + 3)


def longer(path):
    with open(path, "ab") as file:
        file.write(b"\x01")


def garbled(path, at=0):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"\x99")


def no_state(path):
    garbled(path, HEAD_BYTES)


@pytest.mark.parametrize("damage", [torn, longer, garbled, no_state, os.unlink])
def test_a_map_that_cannot_be_right_is_begun_anew(made, damage):
    damage(f"{made.path}.map")
    fresh = again(made)
    assert fresh.missing(EVERY).size == 4
    assert not np.fromfile(fresh.path, np.uint8).any()
    fresh.mark(2)
    assert made.has(1) and not made.has(2), "who has the old files open keeps them"


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, SIZE - 1), os.unlink])
def test_a_copy_of_another_size_is_begun_anew(made, damage):
    damage(made.path)
    assert again(made).missing(EVERY).size == 4
    assert os.stat(made.path).st_size == SIZE


def test_what_the_disk_may_have_lost_is_fetched_again_after_a_restart(tmp_path, monkeypatch):
    def opened():
        return Mirror(str(tmp_path), URL, Version(SIZE, "a"))

    mirror = opened()
    mirror.mark(1)
    mirror.keep()
    mirror.mark(0)
    assert opened().missing(EVERY).tolist() == [2, 3]
    (tmp_path / "boot").write_text("another\n")
    monkeypatch.setattr(module, "BOOT_ID", tmp_path / "boot")
    with pytest.raises(ReadError, match=r"in use on another machine; .*cache_dir"):
        opened()
    assert not mirror.missing(np.array([0])).size, "and what they have stays"
    del mirror
    mirror = opened()
    assert mirror.missing(EVERY).tolist() == [0, 2, 3]
    mirror.mark(0)
    assert opened().missing(EVERY).tolist() == [2, 3], "the same start of the machine, a second time"


def test_older_versions_are_removed_once_nobody_uses_them(tmp_path):
    def opened(tag="a", url=URL):
        return Mirror(str(tmp_path), url, Version(SIZE, tag))

    old, other = opened(), opened(url=URL + ".beton")
    (tmp_path / f"{os.path.basename(old.path)[:-16]}0123456789.beton.map.part").touch()
    new = opened("b")
    new.mark(2)
    assert names(tmp_path) == names_of(old, new, other)
    user = subprocess.Popen([sys.executable, "-c", f"{PRELUDE}print(flush=True)\ninput()", str(tmp_path)],
                            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    user.stdout.readline()
    del old
    opened("b")
    assert len(names(tmp_path)) == 6, "another process has it open"
    user.kill()
    user.communicate()
    opened("b")
    assert names(tmp_path) == names_of(new, other)
    assert opened("b").missing(EVERY).tolist() == [0, 1, 3]


def names(folder):
    return {path.name for path in folder.iterdir()}


def names_of(*mirrors):
    return {os.path.basename(mirror.path) + end for mirror in mirrors for end in ("", ".map")}


def test_open_copies_reserve_the_space_that_they_lack(made, tmp_path, monkeypatch):
    free, real = {"bytes": 0}, os.statvfs

    def statvfs(path):
        told = list(real(path))
        told[1], told[4] = 1, free["bytes"]  # f_frsize, f_bavail
        return os.statvfs_result(told)

    monkeypatch.setattr(os, "statvfs", statvfs)
    other = again(made, url=URL + "2", size=5 * BLOCK_BYTES)
    free["bytes"] = 7 * BLOCK_BYTES - 1
    with pytest.raises(ReadError, match=r"has 7.3 MB free; .* needs 5.2 MB more, and other .* 2.1 MB: free"):
        other.check_room()
    free["bytes"] += 1
    other.check_room()
    del other
    free["bytes"] = 2 * BLOCK_BYTES
    made.check_room()


@pytest.mark.parametrize("url", ["s3://bucket/" + "長" * 200, "https://host/" + "folder/" * 900 + "a.beton"])
def test_a_long_url(made, url):
    again(made, url=url).mark(1)
    assert again(made, url=url).missing(EVERY).tolist() == [0, 2, 3]


def test_one_at_a_time_fetches_a_block(made):
    other = again(made)
    assert made.claim(0) and made.claim(2)
    assert not other.claim(0) and other.claim(1)
    made.release(0)
    assert other.claim(0) and not other.claim(2)
    code = f"{PRELUDE}print(*(mirror.claim(k) for k in range(4)))"
    done = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(made.path)], capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False", "False", "True"], done.stderr
    assert made.claim(3), "claims end with their process"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(ReadError, match=f"its local copy {tmp_path}/none/.* cannot be written: No such file"):
        Mirror(str(tmp_path / "none"), URL, Version(SIZE, "a"))


def test_blocks_of_ranges():
    offsets = np.array([0, BLOCK_BYTES - 1, 5 * BLOCK_BYTES - 1, 2 * BLOCK_BYTES, 9 * BLOCK_BYTES])
    lengths = np.array([1, 1, 2, 2 * BLOCK_BYTES, 0])
    assert blocks_of(offsets, lengths).tolist() == [0, 2, 3, 4, 5]
    assert blocks_of(offsets[-1:], lengths[-1:]).tolist() == []


def taken(plan):
    """Return all blocks that may be fetched now."""
    blocks = []
    while (block := plan.peek()) is not None:
        blocks.append(block)
        plan.advance()
    return blocks


def test_a_plan_goes_through_the_blocks_by_first_use_and_a_bounded_way_ahead():
    rng = np.random.default_rng(0)
    offsets, lengths = rng.integers(0, 4000 * BLOCK_BYTES, 3000), rng.integers(0, 2 * BLOCK_BYTES, 3000)
    fields = [(offsets, lengths), (offsets[::-1], lengths[::-1])]
    batches = np.split(rng.permutation(3000), 100)
    expected, ends = [], []
    for batch in batches:
        used = [blocks_of(begins[batch], sizes[batch]) for begins, sizes in fields]
        expected += sorted(set(np.concatenate(used).tolist()) - set(expected))
        ends.append(len(expected))
    ends = [end - np.clip(end - 40, 0, 50) for end in ends]
    absent = np.ones(4002, np.bool_)
    absent[expected[40:90]] = False
    del expected[40:90]
    plan = plan_blocks(EpochRanges(batches, fields, 2), absent)
    assert taken(plan) == [] and not plan.done, "nothing before it is asked for"
    assert plan.ask(0) and taken(plan) == expected[: ends[0] + AHEAD_BLOCKS]
    assert plan.ask(9) and taken(plan) == expected[ends[0] + AHEAD_BLOCKS : ends[9] + AHEAD_BLOCKS]
    assert not plan.ask(3) and taken(plan) == []
    assert plan.ask(99) and taken(plan) == expected[ends[9] + AHEAD_BLOCKS :] and plan.done
    near = plan_blocks(EpochRanges(batches, fields, 2), absent, 3)  # one of many files
    assert near.ask(0) and taken(near) == expected[: ends[0] + 3]


def test_a_plan_of_nothing():
    plan = plan_blocks(EpochRanges([np.array([0, 1])], [], 2), np.ones(1, np.bool_))
    plan.ask(0)
    assert plan.done and plan.peek() is None

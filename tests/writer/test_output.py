"""The file appears complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError, WriteError
from ffcv_gpu.fields import BytesField, IntField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter
from ffcv_gpu.writer.output import OutputFile

SAMPLES = [(bytes([k]) * 100_000,) for k in range(100)]


def write(path, workers=1):
    writer = DatasetWriter(path, {"x": BytesField()}, MIN_PAGE_SIZE, workers, progress=False)
    return writer.from_indexed_dataset(SAMPLES, chunksize=10)


LIMITED = """
import resource, sys, os
import test_output
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
try:
    test_output.write(sys.argv[1], int(sys.argv[2]))
except test_output.WriteError as error:
    print(error.errno, error)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_may_not_grow(tmp_path, workers):
    """The operating system itself fails the write, as on a full disk."""
    path = tmp_path / "a.beton"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", LIMITED, str(path), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=os.path.dirname(__file__), timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{errno.EFBIG} [Errno {errno.EFBIG}] cannot write {path}: File too large")
    assert os.listdir(tmp_path) == ["a.beton"] and path.read_bytes() == b"old"


SMALL_DISK = """
mount -t tmpfs -o size=6m none "$1" || exit 77
printf old > "$1/a.beton"
"$2" -c 'import sys, test_output
try:
    test_output.write(sys.argv[1] + "/a.beton", 2)
except test_output.WriteError as error:
    print(error.errno, error)' "$1"
cat "$1/a.beton"; ls -A "$1"
"""


def test_a_disk_that_is_really_full(tmp_path):
    """A 6 MB file system, where a user may mount one; elsewhere the two tests beside this one must do."""
    command = ["unshare", "--mount", "sh", "-c", SMALL_DISK, "sh", str(tmp_path), sys.executable]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=os.path.dirname(__file__), timeout=60
        )
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.stdout.startswith(
        f"{errno.ENOSPC} [Errno {errno.ENOSPC}] cannot write {tmp_path}/a.beton: No"
    )
    assert done.stdout.endswith("\nolda.beton\n")


def pwrite_until(room):
    """`os.pwrite` on a disk with `room` bytes: short writes first, then ENOSPC."""
    real, left = os.pwrite, [room]

    def pwrite(fd, data, offset):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(fd, data[: left[0]], offset)
        left[0] -= count
        return count

    return pwrite


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("room", [0, 123, 3_000_000, 10_000_500])
def test_a_full_disk(tmp_path, monkeypatch, workers, room):
    monkeypatch.setattr(os, "pwrite", pwrite_until(room))
    with pytest.raises(WriteError, match="No space left on device; nothing was left there") as caught:
        write(tmp_path / "a.beton", workers)
    assert caught.value.errno == errno.ENOSPC and isinstance(caught.value, OSError)
    assert os.listdir(tmp_path) == []


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    write(tmp_path / "a.beton")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:70_001], offset))
    write(tmp_path / "b.beton")
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_folders_and_missing_folders(tmp_path):
    with pytest.raises(WriteError, match="it is a folder"):
        write(tmp_path)
    with pytest.raises(WriteError, match="No such file or directory"):
        write(tmp_path / "none" / "a.beton")
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_is_not_replaced(tmp_path):
    """For root it could be the system's /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="pipe: it is a pipe or a device"):
        write(tmp_path / "pipe")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode) and os.listdir(tmp_path) == ["pipe"]


def test_a_failing_rename(tmp_path, monkeypatch):
    def replace(source, target):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(WriteError, match="Permission denied"):
        write(tmp_path / "a.beton")
    assert os.listdir(tmp_path) == []


def test_an_older_file_is_replaced_and_its_readers_keep_it(tmp_path):
    path = tmp_path / "a.beton"
    path.write_bytes(b"")
    write(path)
    older = open_beton(path)
    DatasetWriter(path, {"y": BytesField()}, MIN_PAGE_SIZE).from_indexed_dataset([(b"new",)])
    assert older.field_names == ("x",) and older.num_samples == 100
    assert np.array_equal(older.data[int(older.offsets("x")[3])], 3)
    assert open_beton(path).field_names == ("y",)


def test_links_are_followed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "a.beton").symlink_to(tmp_path / "data" / "real.beton")
    write(tmp_path / "a.beton")
    assert (tmp_path / "a.beton").is_symlink()
    assert os.listdir(tmp_path / "data") == ["real.beton"]
    assert open_beton(tmp_path / "a.beton").num_samples == 100


def test_permissions_are_the_users(tmp_path):
    mask = os.umask(0o027)
    try:
        write(tmp_path / "a.beton")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(tmp_path / "a.beton").st_mode) == 0o640
    for mode in (0o600, 0o664):  # a file that is replaced keeps its own
        os.chmod(tmp_path / "a.beton", mode)
        write(tmp_path / "a.beton")
        assert stat.S_IMODE(os.stat(tmp_path / "a.beton").st_mode) == mode


def test_until_it_is_whole_no_reader_takes_it(tmp_path):
    with OutputFile(str(tmp_path / "a.beton")) as output:
        output.write(b"x" * 100, 5000)
        (temporary,) = tmp_path.iterdir()
        assert temporary.read_bytes()[:24] == bytes(24)
    assert os.listdir(tmp_path) == []


# ---- flushed to disk before it gets its name


@pytest.mark.parametrize("resume", [False, True])
def test_the_file_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch, resume):
    """By the order of the calls: data, fsync of the file, rename, fsync of the folder."""
    calls = []
    for name in ("pwrite", "fsync", "replace"):
        real = getattr(os, name)

        def call(*arguments, name=name, real=real):
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            calls.append("fsync of the folder" if is_folder else name)
            return real(*arguments)

        monkeypatch.setattr(os, name, call)
    for fsync in (True, False):
        calls.clear()
        path = tmp_path / "a.beton"
        writer = DatasetWriter(path, {"x": BytesField()}, MIN_PAGE_SIZE, 1, fsync=fsync, resume=resume)
        writer.from_indexed_dataset(SAMPLES)
        last = calls[len(calls) - calls[::-1].index("pwrite") - 1 :]
        assert last == (
            ["pwrite", "fsync", "replace", "fsync of the folder"] if fsync else ["pwrite", "replace"]
        )
        assert calls.count("fsync") == fsync


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fails_while_it_is_flushed(tmp_path, monkeypatch, workers):
    def fsync(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "a.beton"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteError, match="Input/output error; nothing was left there") as caught:
        write(path, workers)
    assert caught.value.errno == errno.EIO
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.beton"]


@pytest.mark.parametrize("call", ["fsync", "dup", "replace"])
def test_ctrl_c_while_it_is_flushed(tmp_path, monkeypatch, call):
    """Flushing a large file takes minutes; nothing as large may stay behind."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.beton")
    assert os.listdir(tmp_path) == []


class LossyDisk:
    """A disk whose first flush fails; as on Linux, what was to be flushed then is not written by the next."""

    def __init__(self, monkeypatch):
        self.real, self.written, self.bytes, self.failed = (os.pwrite, os.fsync), [], bytearray(), False
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def pwrite(self, fd, data, offset):
        count = self.real[0](fd, data, offset)
        self.written.append((offset, count))
        return count

    def fsync(self, fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return
        written, self.written = self.written, []
        if not self.failed:
            self.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.bytes += bytes(max(0, os.fstat(fd).st_size - len(self.bytes)))
        for offset, count in written:
            self.bytes[offset : offset + count] = os.pread(fd, count, offset)


@pytest.mark.parametrize("again", [False, True])
def test_what_a_failed_flush_lost_is_flushed_by_the_run_that_resumes(tmp_path, monkeypatch, again):
    """Also if a run between the two is interrupted."""
    path = tmp_path / "a.beton"
    writer = DatasetWriter(path, {"x": BytesField()}, MIN_PAGE_SIZE, 1, progress=False, resume=True)
    disk = LossyDisk(monkeypatch)
    with pytest.raises(WriteError, match=r"Input/output error; .*\.a\.beton\.partial is kept"):
        writer.from_indexed_dataset(SAMPLES)
    if again:
        real = os.preadv
        monkeypatch.setattr(os, "preadv", interrupted_after(3))
        with pytest.raises(KeyboardInterrupt):
            writer.from_indexed_dataset(SAMPLES)
        monkeypatch.setattr(os, "preadv", real)
    assert writer.from_indexed_dataset(SAMPLES).resumed > 10
    assert disk.bytes == path.read_bytes()


def interrupted_after(count):
    """`os.preadv`, and KeyboardInterrupt at the call after `count` of them."""
    real, calls = os.preadv, iter(range(count))

    def preadv(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    return preadv


@pytest.mark.parametrize(("number", "raises"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_folder_that_cannot_be_flushed(tmp_path, monkeypatch, number, raises):
    real = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    if raises:
        with pytest.raises(WriteError, match="is complete, but its name may not survive a power cut"):
            write(tmp_path / "a.beton")
    else:
        write(tmp_path / "a.beton")
    assert open_beton(tmp_path / "a.beton").num_samples == 100


# ---- what a killed writer left


def test_what_a_dead_writer_left_is_removed_by_the_next_and_nothing_else(tmp_path):
    path = tmp_path / "a[1].beton"
    for name in (".a[1].beton.0123abcd.tmp", ".a[1].beton.89abcdef.tmp"):
        (tmp_path / name).write_bytes(bytes(1000))
    others = [".a[1].beton.0123abcd.tmp2", ".a[1].beton.other.tmp", ".a1.beton.0123abcd.tmp",
              ".b.beton.0123abcd.tmp", ".a[1].beton.partial", ".a[1].beton.journal"]  # fmt: skip
    for name in others:
        (tmp_path / name).write_bytes(b"")
    write(path)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, path.name])


def test_two_writers_of_one_name_leave_each_others_file_alone(tmp_path):
    path = str(tmp_path / "a.beton")
    with OutputFile(path) as first:
        first.write(b"first", 0)
        with OutputFile(path) as second:
            second.write(b"second", 0)
            assert len(os.listdir(tmp_path)) == 2
            second.finish()
        assert (tmp_path / "a.beton").read_bytes() == b"second"
        first.finish()
    assert (tmp_path / "a.beton").read_bytes() == b"first" and os.listdir(tmp_path) == ["a.beton"]


@pytest.mark.parametrize("resume", [False, True])
def test_nobody_takes_the_file_while_it_gets_its_name(tmp_path, monkeypatch, resume):
    """Locked until then: another writer of the same name neither removes it nor writes to it."""
    path, real, seen = str(tmp_path / "a.beton"), os.replace, []

    def replace(source, target):
        with OutputFile(path, resumable=False):
            seen.append(os.path.exists(source))
        if resume:
            with pytest.raises(WriteError, match="another process is writing it"):
                OutputFile(path, resumable=True)
        real(source, target)

    with OutputFile(path, resumable=resume) as output:
        output.write(b"whole", 0)
        monkeypatch.setattr(os, "replace", replace)
        output.finish()
    assert seen == [True] and (tmp_path / "a.beton").read_bytes() == b"whole"


def test_a_partial_file_that_was_finished_meanwhile_is_not_written_into(tmp_path, monkeypatch):
    path, real, opened = str(tmp_path / "a.beton"), os.open, []
    first = OutputFile(path, resumable=True)
    first.write(b"whole", 0)

    def slow(name, *arguments):
        fd = real(name, *arguments)
        if str(name).endswith(".partial") and not opened:
            opened.append(fd)
            first.finish()  # between the other's opening and locking
        return fd

    monkeypatch.setattr(os, "open", slow)
    with OutputFile(path, resumable=True) as second:
        assert opened and second.is_new
        second.write(b"other", 0)
    assert (tmp_path / "a.beton").read_bytes() == b"whole"


def test_a_full_disk_keeps_a_resumable_file(tmp_path, monkeypatch):
    path, real = tmp_path / "a.beton", os.pwrite
    writer = DatasetWriter(path, {"x": BytesField()}, MIN_PAGE_SIZE, 1, progress=False, resume=True)
    monkeypatch.setattr(os, "pwrite", pwrite_until(6_000_000))
    with pytest.raises(WriteError, match=r"No space left .*\.a\.beton\.partial is kept, for the run"):
        writer.from_indexed_dataset(SAMPLES)
    monkeypatch.setattr(os, "pwrite", real)
    assert writer.from_indexed_dataset(SAMPLES).resumed > 10
    write(tmp_path / "b.beton")
    assert path.read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_a_url_is_refused():
    with pytest.raises(PipelineError, match="writes local files, not s3:"):
        DatasetWriter("s3://bucket/a.beton", {"label": IntField()})

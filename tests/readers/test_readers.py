"""Readers against plain file reads, and what they say of ranges that are not there."""

import contextlib
import errno
import os

import numpy as np
import pytest

from ffcv_gpu.errors import ReadError
from ffcv_gpu.format import CURRENT_VERSION, HeaderType
from ffcv_gpu.readers import JoinedReader, MappedReader, MirroredReader, PositionedReader, RemoteFile
from tests.range_server import RangeServer


@pytest.fixture
def data(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8)
    content[: HeaderType.itemsize].view(HeaderType)["version"] = CURRENT_VERSION
    content.tofile(tmp_path / "data")
    return str(tmp_path / "data"), content


@pytest.fixture(params=["mapped", "positioned", "mirrored", "joined", "joined, mapped"])
def reader(request, data, tmp_path):
    path, content = data
    with contextlib.ExitStack() as stack:
        if request.param == "mapped":
            made = MappedReader(path, np.memmap(path, np.uint8, "r"))
        elif request.param == "positioned":
            made = PositionedReader(path)
        elif request.param.startswith("joined"):
            made = joined(path, content, mapped="mapped" in request.param)
        else:
            pytest.importorskip("obstore")
            server = RangeServer(content.tobytes())
            stack.callback(server.close)
            file = RemoteFile(server.url, str(tmp_path))
            made = MirroredReader(file, MappedReader(path, np.memmap(file.path, np.uint8, "r")))
        yield made
        made.close()


def joined(path, content, mapped):
    """The same bytes in three files."""
    bases, readers = np.array([0, 40_000, 90_000]), []
    for number, part in enumerate(np.split(content, bases[1:])):
        own = f"{path}{number}"
        part.tofile(own)
        readers.append(MappedReader(own, np.memmap(own, np.uint8, "r")) if mapped else PositionedReader(own))
    return JoinedReader(readers, bases, np.array([0, 2, 3]))


def test_ranges_lie_one_behind_the_other(reader, data):
    _, content = data
    offsets, lengths = np.array([99_000, 5, 0, 500]), np.array([1000, 1, 0, 30_000])
    out = np.empty(lengths.sum(), np.uint8)
    reader.read_into(offsets, lengths, out)
    assert np.array_equal(
        out, np.concatenate([content[o : o + n] for o, n in zip(offsets, lengths, strict=True)])
    )


def test_views_are_read_only_and_outlive_the_reader(reader, data):
    _, content = data
    view = reader.view(123, 456)
    reader.close()
    assert np.array_equal(view, content[123 : 123 + 456]) and not view.flags.writeable


def test_a_range_behind_the_end_is_an_error(reader, data):
    with pytest.raises(ReadError, match=data[0]):
        reader.read_into(np.array([99_990]), np.array([11]), np.empty(11, np.uint8))


def test_a_file_truncated_after_opening_is_an_error(data):
    path, _ = data
    reader = PositionedReader(path)
    os.truncate(path, 50_000)
    with pytest.raises(ReadError, match="ends at byte 50000"):
        reader.read_into(np.array([49_000]), np.array([2000]), np.empty(2000, np.uint8))


def test_a_read_that_fails_names_file_and_offset(data, monkeypatch):
    reader = PositionedReader(data[0])

    def broken(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(ReadError, match=r"at 77: .*Input/output error"):
        reader.read_into(np.array([77]), np.array([5]), np.empty(5, np.uint8))


def test_short_reads_are_continued(data, monkeypatch):
    path, content = data
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:7]], at))
    out = np.empty(100, np.uint8)
    PositionedReader(path).read_into(np.array([10]), np.array([100]), out)
    assert np.array_equal(out, content[10:110])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ReadError, match="nowhere"):
        PositionedReader(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("offset", "length"), [(0, 1 << 62), (100_001, 0), (1 << 62, 5), (-1, 5), (5, -1)])
def test_a_view_of_what_is_not_there_allocates_nothing(reader, offset, length):
    with pytest.raises(ReadError, match="are outside the file"):
        reader.view(offset, length)


def test_a_pipe_and_a_folder_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ReadError, match="not a regular file"):
            PositionedReader(str(path))


def test_a_mapped_file_that_was_cut_is_an_error_and_not_a_signal(data):
    path, _ = data
    reader = MappedReader(path, np.memmap(path, np.uint8, "r"))
    os.truncate(path, 50_000)
    for read in (
        lambda at: reader.locate(np.array([at]), np.array([10])),
        lambda at: reader.read_into(np.array([at]), np.array([10]), np.empty(10, np.uint8)),
    ):
        read(40_000)
        with pytest.raises(ReadError, match="cannot read 10 bytes at 60000: Bad address"):
            read(60_000)


def test_a_block_that_the_disk_does_not_give_is_an_error(data, monkeypatch):
    """A disk without bad blocks gives no such answer; real ones are in the test of the kernel."""
    path, _ = data
    monkeypatch.setattr("ffcv_gpu.kernels.populate_cpu.populate", lambda *asked: (1, errno.EIO))
    reader = MappedReader(path, np.memmap(path, np.uint8, "r"))
    with pytest.raises(ReadError, match="cannot read 10 bytes at 70: Input/output error"):
        reader.read_into(np.array([5, 70]), np.array([3, 10]), np.empty(13, np.uint8))

"""What can be wrong with a remote file or its folder when it is opened: each has a clear error."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import sys

import pytest

from ffcv_gpu.dataset.reader import Reader
from ffcv_gpu.errors import BackendUnavailable, FormatError, PipelineError, ReadError
from ffcv_gpu.readers.remote import mirror
from ffcv_gpu.readers.remote.mirror import BLOCK_BYTES
from tests.range_server import RangeServer
from tests.remote_file import N, batches, long_loader, may_be_silent, same

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("impatient")]


def test_a_url_needs_a_folder(server):
    with pytest.raises(PipelineError, match=r"train.beton is read through a copy .* cache_dir="):
        long_loader(server.url)


def test_missing_obstore_says_what_to_install(server, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(BackendUnavailable, match=r"needs obstore .*pip install 'ffcv-gpu\[remote\]'"):
        long_loader(server.url, cache_dir=cache)


def test_pages_past_the_system_are_not_for_urls(server, cache):
    with pytest.raises(PipelineError, match="os_cache=False does not work with a URL"):
        long_loader(server.url, cache_dir=cache, os_cache=False)
    with pytest.raises(PipelineError, match="memory managers cannot read from a URL"):
        _ = long_loader(server.url, cache_dir=cache).memory_manager


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "hdfs://server/train.beton",
            "cannot be opened: .*Unable to recogni[sz]e URL.*; s3, gs, az, https and file",
        ),
        ("https://server/train.beton?signature=1", "a URL with a query"),
        ("s3://bucket/", "names no object"),
        ("s3://bucket", "names no object"),
    ],
)
def test_urls_that_cannot_be_read(url, said, cache):
    pytest.importorskip("obstore")
    with pytest.raises(PipelineError, match=said):
        long_loader(url, cache_dir=cache)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (404, "not found.*; is the URL right, and the object still there"),
        (403, "403.*; set credentials that may read it"),
        (401, "401.*; set credentials that may read it"),
        (400, "400.*; are the credentials, which may have expired, and the region right"),
        (416, "at 0: .*416.*; it is shorter than when it was opened"),
        (503, "503.*; check the network and the server"),
        ("ignore", "at 0: .*the server must support requests for byte ranges"),
        ("short", "at 0: .*check the network and the server"),
        ("cut", "at 0: .*check the network and the server"),
        ("drop", "check the network and the server"),
        ("hang", "check the network and the server"),
    ],
)
def test_a_server_that_does_not_give_it(server, cache, monkeypatch, how, said):
    if how == "hang":
        may_be_silent(monkeypatch, 1)
    server.behave = lambda method, begin, end: None if (method, how) == ("HEAD", 416) else how
    with pytest.raises(ReadError, match=f"{server.url}: cannot .*{said}"):
        long_loader(server.url, cache_dir=cache)


def test_missing_credentials_are_named(server, cache, monkeypatch):
    """Without any, obstore asks the machine's metadata service, which here knows none."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "WEB_IDENTITY_TOKEN_FILE", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    address = server.url.removesuffix("/folder/train.beton")
    for name, value in (("METADATA_ENDPOINT", address), ("ENDPOINT", address), ("ALLOW_HTTP", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(ReadError, match=r"no credentials were found.*AWS_ACCESS_KEY_ID.*SKIP_SIGNATURE"):
        long_loader("s3://bucket/train.beton", cache_dir=cache)


def test_nobody_there(server, cache):
    server.close()
    with pytest.raises(ReadError, match=r"cannot be opened: .*check the network"):
        long_loader(server.url, cache_dir=cache)


def test_too_little_room_is_said_with_the_numbers(long, server, cache, monkeypatch):
    real, size = os.statvfs, long.stat().st_size
    room = {"free": BLOCK_BYTES}

    def full(path):
        told = list(real(path))
        told[1], told[4] = 1, room["free"]  # f_frsize, f_bavail
        return os.statvfs_result(told)

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(ReadError, match=r"has 1.0 MB free; .*train.beton needs 1\d.\d MB more: free some"):
        long_loader(server.url, cache_dir=cache)
    assert len(Reader(server.url, cache_dir=cache).metadata) == N, "the description needs no more room"
    room["free"] = size
    assert same(batches(long_loader(long)), batches(long_loader(server.url, cache_dir=cache)))
    room["free"] = 0
    assert same(batches(long_loader(long)), batches(long_loader(server.url, cache_dir=cache)))


def test_of_many_files_one_asks_whether_there_is_room_for_all(long, tmp_path, cache, monkeypatch):
    """256 complete copies, of which each asked about all others, took 4 s to open again."""
    pytest.importorskip("obstore")
    urls = [(tmp_path / f"{k}.beton").as_uri() for k in range(4)]
    for k in range(4):
        shutil.copy(long, tmp_path / f"{k}.beton")
    asked, real, looked = [], os.statvfs, mirror.others_in_use
    monkeypatch.setattr(mirror, "others_in_use", lambda path: asked.append(path) or looked(path))

    def told(free):
        return lambda path: os.statvfs_result([1, 1, *real(path)[2:4], free, *real(path)[5:]])

    monkeypatch.setattr(os, "statvfs", told(3 * long.stat().st_size))
    with pytest.raises(ReadError, match=r"needs .* MB more, and other copies in use"):
        long_loader(urls, cache_dir=cache)
    monkeypatch.setattr(os, "statvfs", told(5 * long.stat().st_size))
    loader = long_loader(urls, cache_dir=cache)
    assert len(asked) == 2 and len(batches(loader)) == len(loader)
    assert len(long_loader(urls, cache_dir=cache)) == len(loader) and len(asked) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"\x02\x00short", b"<!DOCTYPE html>" * 9999, gzip.compress(bytes(9), mtime=0), bytes(3 << 20)],
    ids=["empty", "short", "html", "gzip", "zeros"],
)
def test_what_is_no_beton_file_is_refused_by_its_beginning(cache, content):
    server = RangeServer(content)
    said = f"{server.url} is not a complete .beton file: it begins with {content[:16]!r}"
    with pytest.raises(FormatError, match=re.escape(said)):
        long_loader(server.url, cache_dir=cache)
    assert sum(end - begin for begin, end in server.fetched()) <= BLOCK_BYTES
    server.close()

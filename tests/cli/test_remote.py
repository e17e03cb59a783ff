"""The commands with a URL, against the same file on the local disk."""

from __future__ import annotations

import json

import pytest

from tests.range_server import RangeServer
from tests.remote_file import N, write_long

pytest.importorskip("obstore")


@pytest.fixture
def serve():
    made = []

    def start(path):
        made.append(RangeServer(path.read_bytes()))
        return made[-1]

    yield start
    for server in made:
        server.close()


def test_info_says_the_same_and_where_the_copy_is(run, small, serve, tmp_path):
    server = serve(small)
    local = json.loads(run("info", small, "--json").stdout)
    found = json.loads(run("info", server.url, "--json", "--cache-dir", tmp_path / "new" / "cache").stdout)
    said = found.pop("local_copy")
    assert found == {**local, "file": server.url}
    assert (
        said.startswith("remote: ") and f"on the local disk, in {tmp_path / 'new' / 'cache'}/train-" in said
    )
    shown = run("info", server.url, "--cache-dir", tmp_path / "new" / "cache").stdout
    assert said in " ".join(shown.split())


def test_info_fetches_the_headers_that_it_looks_at(run, reference_betons, serve, tmp_path):
    path = reference_betons / "jpg.beton"
    local = json.loads(run("info", path, "--json").stdout)
    found = json.loads(run("info", serve(path).url, "--json", "--cache-dir", tmp_path).stdout)
    assert found["fields"] == local["fields"]


def test_verify_fetches_all_and_finds_damage(run, small, serve, tmp_path):
    good = run("verify", serve(small).url, "--cache-dir", tmp_path)
    assert (good.exit_code, good.stdout.splitlines()[-1]) == (0, "good")
    (copy,) = tmp_path.glob("*.beton")
    assert copy.read_bytes() == small.read_bytes()
    raw = bytearray(small.read_bytes())
    place = raw.index(b"texttext")
    raw[place] ^= 1
    server = serve(small)
    server.data = bytes(raw)
    bad = run("verify", server.url, "--cache-dir", tmp_path)
    assert bad.exit_code == 1 and "DAMAGED" in bad.stdout and "field 'text'" in bad.stdout
    assert bad.stdout.count("sample ") == run("verify", _written(tmp_path / "b", raw)).stdout.count("sample ")


def _written(path, raw):
    path.write_bytes(raw)
    return path


def test_what_is_missing_is_said_in_one_line(run, small, serve, tmp_path):
    server = serve(small)
    result = run("info", server.url)
    assert result.exit_code == 1 and "--cache-dir" in result.stderr
    for status, said in ((404, "is the URL right"), (403, "set credentials"), (400, "have expired")):
        server.behave = lambda method, begin, end, status=status: status
        result = run("verify", server.url, "--cache-dir", tmp_path)
        assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1


def test_no_answer_is_no_damage(run, serve, tmp_path):
    server = serve(write_long(tmp_path / "long.beton"))
    server.behave = lambda method, begin, end: 403 if begin < 7 << 20 and end > 6 << 20 else None
    for command in ("verify", "bench", "doctor"):
        result = run(command, server.url, "--cache-dir", tmp_path / "cache")
        assert result.exit_code == 2 and "403" in result.stderr and result.stderr.count("\n") == 1


def test_bench_fetches_in_its_first_epoch(run, serve, tmp_path):
    server = serve(write_long(tmp_path / "long.beton"))
    options = ("--json", "--epochs", "1", "--batch-size", "4", "--workers", "1")
    found = json.loads(run("bench", server.url, "--cache-dir", tmp_path / "cache", *options).stdout)
    assert (found["file"], found["samples"]) == (server.url, N)
    (copy,) = (tmp_path / "cache").glob("*.beton")
    assert copy.read_bytes() == server.data
    server.requests.clear()
    run("bench", server.url, "--cache-dir", tmp_path / "cache", *options)
    assert {method for method, _, _ in server.requests} == {"HEAD"}


def test_doctor_fetches_all_and_diagnoses_the_copy(run, small, serve, tmp_path):
    server = serve(small)
    options = ("--size", "32", "--batch-size", "4", "--workers", "1", "--json")
    report = json.loads(run("doctor", server.url, "--cache-dir", tmp_path, *options).stdout)
    assert report["file"]["file"] == server.url and report["file"]["samples"] == 14
    (copy,) = tmp_path.glob("*.beton")
    assert copy.read_bytes() == small.read_bytes()
    assert report["diagnosis"]["file_bytes"] == small.stat().st_size


def test_merge_refuses_a_url(run, small, tmp_path):
    result = run("merge", small, "s3://bucket/train.beton", "-o", tmp_path / "merged.beton")
    assert result.exit_code == 2 and "s3://bucket/train.beton" in result.stderr
    assert "merge reads local files only" in " ".join(result.stderr.replace("│", "").split())


def test_a_path_without_a_folder_for_copies(run, small):
    for command in ("bench", "doctor"):
        result = run(command, "s3://bucket/train.beton")
        assert result.exit_code == 1 and "--cache-dir" in result.stderr

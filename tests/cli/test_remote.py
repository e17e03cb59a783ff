"""``info`` and ``verify`` of a URL, against the same file on the local disk."""

from __future__ import annotations

import json

import pytest

from tests.range_server import RangeServer

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
    server.behave = lambda method, begin, end: 404
    result = run("verify", server.url, "--cache-dir", tmp_path)
    assert result.exit_code == 2 and "is the URL right" in result.stderr and result.stderr.count("\n") == 1

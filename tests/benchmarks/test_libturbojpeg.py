"""The optional library of the CPU path: its installation, its rows, and its bare decoder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import simplejpeg

from benchmarks.bench_loader import BLOCKS, OWN_ROWS, Cell, contenders_of
from benchmarks.harness import Contender, started
from benchmarks.peers import LIBTURBOJPEG, TURBOJPEG
from ffcv_gpu.native import turbojpeg, turbojpeg3


def rows_of(file, *, missing=None):
    """Return the rows of the loader's headline case with this file."""
    block = next(block for block in BLOCKS if block.name == "headline")
    return list(contenders_of(Cell(block, file, 1, "warm"), None, missing))


@pytest.fixture
def without(monkeypatch):
    """Let no libturbojpeg be used."""
    monkeypatch.setenv("FFCV_GPU_TURBOJPEG", "off")
    for module in (turbojpeg, turbojpeg3):
        module.library.cache_clear()
    yield
    for module in (turbojpeg, turbojpeg3):
        module.library.cache_clear()


def test_without_it_its_rows_say_how_to_get_it(without):
    rows = {contender.name: contender for contender in rows_of("jpeg", missing="no FFCV")}
    missing = {name: row.missing for name, row in rows.items() if "libturbojpeg" in name}
    assert len(missing) == 4
    assert set(missing.values()) == {"not installed; python -m benchmarks setup-peer libturbojpeg"}
    assert all(row.missing is None for name, row in rows.items() if name in OWN_ROWS["jpeg"])
    assert not any("libturbojpeg" in contender.name for contender in rows_of("raw", missing="no FFCV"))


def test_the_other_rows_do_not_use_it():
    for row in rows_of("jpeg"):
        if row.script == "own_worker.py" and "libturbojpeg" not in row.name:
            assert row.settings["jpeg_backend"] == "turbo"


def test_setup_names_the_tools_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"compiled by cmake, make, cc.*apt install cmake make gcc nasm"):
        LIBTURBOJPEG.install(tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_another_archive_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.peers.libturbojpeg.shutil.which", lambda tool: tool)
    (tmp_path / "other.tar.gz").write_bytes(b"something else")
    sources = ((tmp_path / "no-such-file").as_uri(), (tmp_path / "other.tar.gz").as_uri())
    with pytest.raises(RuntimeError, match=r"no-such-file.*; file.*not the archive of libturbojpeg 3\."):
        replace(LIBTURBOJPEG, sources=sources).install(tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("turbojpeg3")
def test_the_bare_decode_is_of_every_image(tmp_path, make_photo):
    files = [simplejpeg.encode_jpeg(make_photo(40 + i, 60, i), 90) for i in range(5)]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.jpg").write_bytes(file)
    listing = tmp_path / "listing.json"
    listing.write_text(json.dumps(sorted(map(str, tmp_path.glob("*.jpg")))))
    with started(Contender("bare", TURBOJPEG.script), 1) as (worker, facts):
        told = worker.ask("open_files", listing=str(listing), count=8, threads=1)
        assert worker.ask("decode")["images"] == 8
    last = simplejpeg.decode_jpeg(files[7 % 5], "RGB")
    assert told == {"height": 42, "width": 60, "mean": pytest.approx(last.mean(), abs=0.2)}
    assert "turbojpeg" in facts["library"]

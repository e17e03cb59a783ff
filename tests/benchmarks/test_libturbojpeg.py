"""The optional library of the CPU path: how it is installed aside, its rows, and its bare decode."""

from __future__ import annotations

from dataclasses import replace

import pytest
import simplejpeg

from benchmarks.bench_loader import BLOCKS, OWN_ROWS, Cell, contenders_of
from benchmarks.peers import LIBTURBOJPEG
from benchmarks.workers.bare import BareDecode
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.native import turbojpeg, turbojpeg3
from ffcv_gpu.writer import DatasetWriter


def rows_of(file, *, missing=None):
    """Return the rows of the loader's headline case with this file."""
    block = next(block for block in BLOCKS if block.name == "headline")
    return list(contenders_of(Cell(block, file, 1, "warm"), None, missing))


@pytest.fixture
def without(monkeypatch):
    """No libturbojpeg shall be used."""
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
def test_the_bare_decode_decodes_every_image_once_an_epoch(tmp_path, make_photo):
    path = tmp_path / "photos.beton"
    samples = [(simplejpeg.encode_jpeg(make_photo(40 + i, 60, i), 90),) for i in range(19)]
    writer = DatasetWriter(path, {"image": RGBImageField()}, num_workers=1, progress=False)
    writer.from_indexed_dataset(samples)
    bare = BareDecode(str(path), 8, 2, "fast")
    for _ in range(2):
        assert [batch[0].tolist() for batch in bare] == [[0] * 8, [0] * 8, [0] * 3]

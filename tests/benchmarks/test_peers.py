"""Peers: missing ones say why, recorded settings are used, and all get the same images."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
import tarfile
from functools import partial

import numpy as np
import pytest
import simplejpeg
import torch

from benchmarks.bench_decode import Cell, Decoding, cells, encoded, files_of, tiles
from benchmarks.containers import CLASSES, folder_of, shards_of
from benchmarks.harness import WORKERS, Contender, Failed
from benchmarks.peers import INSTALLABLE, PEERS, Peer, base
from benchmarks.photos import find_photos
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter

#: settings that only describe what a peer does; all others must be parameters of its worker
WORDS = {"container", "resample", "output"}


def parameters(script, function):
    """The names that a worker's function takes, without importing what it needs."""
    tree = ast.parse((WORKERS / script).read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    return {argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)}


@pytest.mark.parametrize("script", sorted(path.name for path in WORKERS.glob("*.py")))
def test_a_worker_compiles(script):
    compile((WORKERS / script).read_text(), script, "exec")


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_what_a_result_says_was_set_is_set(peer):
    assert peer.loader or peer.decoder
    for rows, function in ((peer.loader, "make_loader"), (peer.decoder, "make_decoder")):
        for settings in rows.values():
            bare = "floor_loader" in (WORKERS / peer.script).read_text() and function == "make_loader"
            taken = {"dct"} if bare else parameters(peer.script, function)
            assert set(settings) - WORDS <= taken


def test_names_of_rows_are_used_once():
    for rows in ("loader", "decoder"):
        names = [name for peer in PEERS.values() for name in getattr(peer, rows)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["dali", "spdl", "torchcodec", "nvimgcodec"])
def test_what_is_not_installed_says_how_to_get_it(name, monkeypatch, tmp_path):
    monkeypatch.delenv(PEERS[name].variable, raising=False)
    assert PEERS[name].find(None, tmp_path) == (
        None,
        f"not installed; python -m benchmarks setup-peer {name}",
    )
    python, why = PEERS[name].find(sys.executable)
    assert python is None
    assert f"{'its check' if PEERS[name].probe else 'import'} fails: " in why
    assert why.endswith(PEERS[name].hint)


def test_a_peer_may_be_at_home_in_the_suite(monkeypatch, tmp_path):
    monkeypatch.delenv(PEERS["opencv"].variable, raising=False)
    assert PEERS["opencv"].find(None, tmp_path) == (sys.executable, None)


def test_an_environment_in_the_folder_goes_before_the_suites_own(monkeypatch, tmp_path):
    peer = Peer(name="some-peer", script="", environment="shared", own=True, probe="pass")
    monkeypatch.delenv(peer.variable, raising=False)
    python = tmp_path / "shared" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(tmp_path / "nothing")
    assert peer.find(None, tmp_path) == (sys.executable, None)  # a dangling link is none
    python.unlink()
    python.symlink_to("/bin/true")
    assert peer.find(None, tmp_path) == (str(python), None)


@pytest.mark.parametrize("name", ["dali", "webdataset"])
def test_a_shared_environment_is_added_to_any_other_made_anew(name, monkeypatch, tmp_path):
    run = []
    monkeypatch.setattr(base.venv, "create", partial(bare_environment, []))
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(base.subprocess, "run", lambda command, **_: run.append(command[5:]) or done)
    steps = [[*step, "--no-cache-dir"] for step in PEERS[name].steps]
    INSTALLABLE[name].install(tmp_path / "home", ["--no-cache-dir"])
    assert run == steps
    again = []
    monkeypatch.setattr(base.venv, "create", partial(bare_environment, again))
    assert INSTALLABLE[name].install(tmp_path / "home") == tmp_path / "home" / "bin" / "python"
    assert len(run) == 2 * len(steps)
    assert again == ([True] if name == "dali" else [])


@pytest.mark.parametrize("name", ["dali", "webdataset"])
def test_a_folder_of_other_things_is_not_emptied(name, monkeypatch, tmp_path):
    monkeypatch.setattr(base.subprocess, "run", lambda command, **_: subprocess.CompletedProcess([], 0))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RuntimeError, match="not empty and no environment"):
        INSTALLABLE[name].install(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_peers_in_one_environment_want_the_same_versions():
    wanted = {}
    for peer in PEERS.values():
        for word in (word for step in peer.steps for word in step if "==" in word):
            name, _, version = word.partition("==")
            wanted.setdefault((peer.environment or peer.name, name), set()).add(version)
    assert {key: versions for key, versions in wanted.items() if len(versions) > 1} == {}


def bare_environment(made, home, *, with_pip, clear):
    """Stand in for venv.create."""
    made.append(clear)
    (home / "bin").mkdir(parents=True, exist_ok=True)
    (home / "bin" / "python").touch()
    (home / "pyvenv.cfg").touch()


def test_the_interpreter_of_the_variable_is_asked(monkeypatch):
    peer = Peer(name="some-peer", script="", probe="raise SystemExit('no such thing')", hint="try")
    assert peer.variable == "FFCV_GPU_SOME_PEER_PYTHON"
    monkeypatch.setenv(peer.variable, sys.executable)
    assert peer.find() == (None, "its check fails: no such thing; try")


def test_a_peer_that_hangs_when_it_is_imported_is_missing(monkeypatch):
    monkeypatch.setattr(base, "PROBE_SECONDS", 0.5)
    peer = Peer(name="some-peer", script="", probe="import time; time.sleep(60)")
    python, why = peer.find(sys.executable)
    assert python is None and "did not end within 0.5 s" in why


def test_a_peer_is_found_as_its_worker_will_find_it(monkeypatch, tmp_path):
    (tmp_path / "some_peer.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert PEERS["pillow"].find(sys.executable) == (sys.executable, None)
    assert "No module named 'some_peer'" in Peer(name="some_peer", script="").find(sys.executable)[1]


def test_what_fails_names_no_folder_of_the_machine():
    code = "import sys; raise SystemExit(f'{sys.prefix}/lib/x.so: cannot open')"
    peer = Peer(name="some-peer", script="", probe=code)
    assert peer.find(sys.executable) == (None, "its check fails: .../lib/x.so: cannot open")
    nowhere = Peer(name="some-peer", script="").find("/no/such/python")
    assert nowhere == (None, "its Python does not start: No such file or directory")


@pytest.fixture
def beton(tmp_path):
    rng = np.random.default_rng(0)
    files = [simplejpeg.encode_jpeg(rng.integers(0, 255, (20, 30 + n, 3), np.uint8), 90) for n in range(11)]
    samples = [(file, n) for n, file in enumerate(files)]
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    DatasetWriter(tmp_path / "a.beton", fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return tmp_path / "a.beton", files


def test_everybody_reads_the_same_bytes(beton):
    path, files = beton
    folder = folder_of(path)
    found = {file.stem: (file.parent.name, file.read_bytes()) for file in folder.rglob("*.jpg")}
    assert found == {f"{n:06}": (f"class{n % CLASSES}", file) for n, file in enumerate(files)}
    in_tars = {}
    assert [len(shards_of(path, workers)) for workers in (1, 2, 6, 16)] == [8, 8, 12, 16]
    for shard in shards_of(path, 6):
        with tarfile.open(shard) as tar:
            in_tars |= {name: tar.extractfile(name).read() for name in tar.getnames()}
    assert in_tars == {f"{n:06}.jpg": file for n, file in enumerate(files)} | {
        f"{n:06}.cls": b"%d" % (n % CLASSES) for n in range(len(files))
    }
    assert not list(path.parent.glob("*.part"))


def test_crops_are_drawn_as_by_torchvision(monkeypatch):
    monkeypatch.syspath_prepend(str(WORKERS))
    from crops import random_crop
    from torch_parts import transforms

    drawn = transforms().RandomResizedCrop(224)

    def told(boxes):
        y, x, h, w = np.array(boxes, float).T
        assert (np.minimum(y, x) >= 0).all() and (y + h <= 300).all() and (x + w <= 500).all()
        return [np.mean(h * w) / 150_000, np.mean(np.log(w / h)), np.mean(y + h / 2), np.mean(x + w / 2)]

    draw = random.Random(0)
    ours = told([random_crop(draw, 300, 500) for _ in range(4000)])
    image = torch.zeros(3, 300, 500, dtype=torch.uint8)
    torch.manual_seed(0)
    made = [drawn.make_params([image]) for _ in range(4000)]
    theirs = told([[each[key] for key in ("top", "left", "height", "width")] for each in made])
    assert ours == pytest.approx(theirs, rel=0.03, abs=0.02)
    assert random_crop(draw, 10, 1000) == (0, 493, 10, 13)  # too flat for any draw: the widest, in the middle


def test_time_of_children_that_are_alive_counts():
    code = """
import multiprocessing, sys, time
import protocol

def spin(begin, end):
    start = time.process_time()
    while time.process_time() - start < 0.3:
        pass
    begin.set()
    end.wait()

context = multiprocessing.get_context("fork")
begin, end = context.Event(), context.Event()
before = protocol.cpu_seconds()
child = context.Process(target=spin, args=(begin, end))
child.start()
begin.wait()
alive = protocol.cpu_seconds() - before
end.set()
child.join()
print(alive, protocol.cpu_seconds() - before, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=WORKERS, capture_output=True, text=True, check=True
    )
    alive, after = map(float, done.stderr.split())
    assert 0.27 < alive < 0.6
    assert alive - 0.03 < after < 0.6


STAT = """cpu  1000 0 0 500 0 0 0 0 7 7
cpu0 100 10 20 5000 300 1 2 3 7 7
cpu1 600 0 0 100 0 0 0 0 0 0
cpu10 9000 0 0 0 0 0 0 0 0 0
intr 123 4 5
"""


def test_only_the_cores_that_a_contender_may_use_count_as_busy():
    code = f"import sys, protocol; sys.stderr.write(str(protocol.busy_seconds({STAT!r}, [0, 7])))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=WORKERS, capture_output=True, text=True, check=True
    )
    assert float(done.stderr) == pytest.approx((100 + 10 + 20 + 1 + 2 + 3) / os.sysconf("SC_CLK_TCK"))


class Told:
    """Stands in for a worker that returns a given answer."""

    def __init__(self, answer):
        self.answer = answer

    def ask(self, do, **_):
        return self.answer


def test_decoders_that_do_something_else_are_found_out(tmp_path):
    cell = Cell("256", 90, "420")
    paths = files_of(cell, find_photos(None, tmp_path), tmp_path)[:8]
    image = simplejpeg.decode_jpeg(paths[-1].read_bytes(), "RGB")
    assert image.shape == (192, 256, 3)
    decoding = Decoding(cell, paths, 8, 1, 0.0)
    right = {"height": 192, "width": 256, "mean": float(image.mean())}
    assert decoding.open(Told(right), Contender("good", "")) == {}
    for wrong in ({"mean": right["mean"] + 3}, {"height": 256, "width": 192}):
        with pytest.raises(Failed, match="bad: decoded"):
            decoding.open(Told(right | wrong), Contender("bad", ""))


def test_the_grid_holds_every_size_quality_and_subsampling():
    full, quick = set(cells("full")), set(cells("quick"))
    assert len(full) == 24
    assert len(quick) == 8
    assert quick < full
    for key in ("size", "quality", "subsampling"):
        assert {getattr(cell, key) for cell in quick} == {getattr(cell, key) for cell in full}
    assert [cell.name for cell in cells("quick", ["4K q75 4:4:4"])] == ["4K q75 4:4:4"]


def test_a_turn_of_decoding_is_passes_until_it_is_long_enough(tmp_path):
    cell = Cell("256", 90, "420")
    paths = files_of(cell, find_photos(None, tmp_path), tmp_path)
    answer = {"seconds": 0.3, "cpu_seconds": 0.5, "others_cpu_seconds": 0.1, "images": 8}
    turn = Decoding(cell, paths, 8, 1, 0.7).turn(Told(answer), Contender("x", ""))
    assert turn["passes"] == 3
    assert turn["images"] == 24
    assert turn["seconds"] == pytest.approx(0.9)
    assert turn["megapixels"] == pytest.approx(24 * 192 * 256 / 1e6)
    assert turn["megabytes"] == pytest.approx(3 * sum(p.stat().st_size for p in paths[:8]) / 1e6)


def test_a_large_picture_is_a_mosaic_of_photographs(tmp_path):
    cell = Cell("1080p", 75, "444")
    photos = find_photos(None, tmp_path).paths
    assert tiles(cell) == 12
    file = encoded(photos[:12], cell)
    assert simplejpeg.decode_jpeg_header(file)[:2] == (1080, 1920)
    pixels = simplejpeg.decode_jpeg(file, "RGB").astype(float)
    first = simplejpeg.decode_jpeg(encoded(photos[:1], Cell("500", 95, "444")), "RGB")
    assert abs(pixels[:360, :480].mean() - first.mean()) < 3


def places(tmp_path):
    return ["--patience", "0", "--rounds", "1", "--cores", "1", "--peers", str(tmp_path / "none"),
            "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json")]  # fmt: skip


@pytest.mark.long
def test_decode_runs_what_is_there_and_names_what_is_not(suite, tmp_path):
    done = suite("decode", "--case", "256 q90 4:2:0", "--images", "20", "--seconds", "0", *places(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    ran = {name for name, row in rows.items() if not row["missing"]}
    assert {"ffcv_gpu decode_jpegs", "bare simplejpeg", "OpenCV", "Pillow"} <= ran
    assert {"DALI (CPU)", "SPDL", "TorchCodec", "nvImageCodec (CPU)"} <= rows.keys() - ran
    (count,) = {row["repeats"][0]["images"] for name, row in rows.items() if name in ran}
    assert count == 20
    for name in ran:
        (repeat,) = rows[name]["repeats"]
        assert repeat["megapixels"] == pytest.approx(count * 256 * 192 / 1e6)
        assert rows[name]["values"]["images/s per core used"]["median"] > 0
    assert "- Pillow: " in done.stdout
    assert done.stdout.count("setup-peer dali") == 1


ALL_ROWS = {
    "ffcv": "FFCV",
    "dali": "DALI (CPU)",
    "spdl": "SPDL",
    "torchcodec": "DataLoader, TorchCodec",
    "torch-opencv": "DataLoader, OpenCV",
    "torch-pillow": "DataLoader, Pillow",
    "webdataset": "WebDataset, Pillow",
    "simplejpeg": "bare simplejpeg, whole images, no crop",
}


@pytest.mark.parametrize(
    "here",
    [
        ["torch-pillow", "simplejpeg"],
        ["torch-opencv", "torch-pillow", "webdataset", "simplejpeg"],
    ],
    ids=["some", "all"],
)
@pytest.mark.long
def test_peers_run_on_the_same_images(here, suite, tmp_path):
    absent = ["ffcv", "dali", "spdl", "torchcodec"]
    done = suite("peers", "--samples", "20", "--batch-size", "8", "--side", "32", *places(tmp_path),
                 "--only", *absent, *here)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    ran = {name: row for name, row in rows.items() if not row["missing"]}
    cropping = "ffcv_gpu, libturbojpeg 3"  # there or not, as the machine is
    own = {"ffcv_gpu", "ffcv_gpu, fast DCT", *(ALL_ROWS[name] for name in here)}
    assert ran.keys() - {cropping} == own
    assert rows.keys() - ran.keys() - {cropping} == {ALL_ROWS[name] for name in absent}
    for row in ran.values():
        (repeat,) = row["repeats"]
        assert repeat["images"] == 20
        assert 5e6 < repeat["peak_bytes"] < 3e9
        assert row["settings"]["cores"] == 1
    assert ran["DataLoader, Pillow"]["settings"]["versions"]["pillow"]
    assert "prefetch factor 2" in done.stdout

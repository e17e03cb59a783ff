"""The commands on tiny runs, started as a user does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.bench_memory import slope
from benchmarks.bench_open import PAYLOAD, sparse_file
from benchmarks.cli import BENCHES, main, parse
from benchmarks.growth_files import file_of
from benchmarks.harness import Worker
from benchmarks.peers import FFCV
from benchmarks.photos import PACKAGED, Photos, find_photos
from ffcv_gpu.format import open_beton, verify_structure


def places(tmp_path):
    # no patience: tests must not wait for an idle machine
    return ["--patience", "0", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json")]


def result(tmp_path, done):
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "out.json").read_text())


def test_the_root_is_off_the_path_before_anything_else(root):
    code = (
        "import runpy, sys, importlib.util as u; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('benchmarks', run_name='__main__')\n"
        "except SystemExit: print('kernels:', u.find_spec('kernels'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("kernels: None\n")


@pytest.mark.long
def test_loader_runs_without_its_peer_and_says_so(suite, tmp_path):
    done = suite("loader", "--rounds", "2", "--samples", "8", "--batch-size", "4", "--side", "32",
                 "--cores", "1", "--files", "raw", *places(tmp_path))  # fmt: skip
    found = result(tmp_path, done)
    rows = {(row["case"], row["name"]): row for row in found["rows"]}
    assert len(rows) == 4
    for (_, name), row in rows.items():
        if name.startswith("FFCV"):
            assert "does not start" in row["missing"]
            assert row["repeats"] == []
        else:
            assert [answer["images"] - 8 * answer["epochs"] for answer in row["repeats"]] == [0, 0]
            assert row["values"]["images/s"]["median"] > 0
            assert {"construct_seconds", "first_batch_seconds"} <= row["once"].keys()
    assert found["commit"] == "c0ffee"
    assert str(tmp_path) not in json.dumps({**found, "rows": [r for r in found["rows"] if not r["missing"]]})
    assert any(note.startswith("warm: at least ") for note in found["notes"])
    assert "not run" in done.stdout
    shown = suite("show", str(tmp_path / "out.json"))
    assert shown.stdout.strip() in done.stdout


@pytest.mark.long
def test_write_counts_what_passed_through(suite, tmp_path):
    found = result(
        tmp_path, suite("write", "--rounds", "1", "--samples", "6", "--cores", "1", *places(tmp_path))
    )
    modes = {(row["case"].split(",")[0], row["name"]): row["repeats"][0]["modes"] for row in found["rows"]
             if not row["missing"]}  # fmt: skip
    encoded = modes["JPEG 500 px q90", "ffcv_gpu, all re-encoded from Pillow images"]
    passed = modes["JPEG", "ffcv_gpu, pass-through checked"]
    assert (sum(encoded.values()), sum(passed.values())) == (6, 6)
    assert encoded.keys().isdisjoint(passed.keys())
    assert list((tmp_path / "work").glob("*.beton")) == []


@pytest.mark.long
def test_memory_looks_after_every_epoch(suite, tmp_path):
    small = ["--samples", "8", "--epochs", "3", "--warm-epochs", "1", "--outputs", "uint8"]
    found = result(tmp_path, suite("memory", *small, *places(tmp_path)))
    for row in found["rows"]:
        (repeat,) = row["repeats"]
        assert len(repeat["resident_bytes"]) == 3
        assert repeat["peak_bytes"] == max(repeat["resident_bytes"])


def test_slope_of_a_line_is_its_slope():
    assert slope([5, 8, 11, 14]) == pytest.approx(3)
    assert slope([7]) == 0


@pytest.mark.parametrize("sealed", [False, True])
def test_sparse_files_are_sound(tmp_path, sealed):
    beton = open_beton(sparse_file(tmp_path / "sparse.beton", 300, sealed=sealed))
    assert verify_structure(beton) == []
    assert (beton.section is not None) == sealed
    assert beton.lengths("image").tolist() == [PAYLOAD] * 300
    assert beton.column("label").tolist() == list(range(300))


@pytest.mark.long
def test_a_big_file_opens_in_little_memory(suite, tmp_path):
    found = result(tmp_path, suite("open", "--rounds", "1", *places(tmp_path)))
    own = [row["repeats"][0] for row in found["rows"] if row["name"] == "ffcv_gpu"]
    assert len(own) == 2
    for answer in own:
        assert answer["batches"] == 1_281_167 // 256
        assert answer["loader_growth"]["rss"] < 300e6
        assert answer["payload_bytes"] == 1_281_167 * PAYLOAD


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loader", "--data", "/no/such/folder"], "is not a folder"),
        (["loader", "--cores", "9999"], "may use"),
        (["loader", "--rounds", "0"], "not a whole number"),
        (["write", "--samples", "many"], "many"),
        (["show", "/no/such/result.json"], "/no/such/result.json"),
        (["load"], "invalid choice"),
        (["host", "--engine-us", "-1"], "is not between 0 and"),
    ],
)
def test_bad_input_is_a_sentence_and_no_result(suite, tmp_path, arguments, words):
    done = suite(*arguments, *([] if arguments[0] in ("show", "load") else places(tmp_path)))
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loader", "--case", "lukewarm"], "'lukewarm' is not known; there are headline"),
        (["loader", "--files", "jpeg-25"], "--grid quick has no case with these --files"),
        (["loader", "--grid", "huge"], "invalid choice: 'huge'"),
        (["growth", "--case", "width"], "'width' is not known; there are cores, batch_size"),
        (["growth", "--points", "16"], "name it with --case"),
        (["growth", "--case", "cores", "--points", "9999"], "this process may use"),
        (["growth", "--data", "/no/such/folder"], "is not a folder"),
        (["kernels", "--data", "/no/such/folder"], "is not a folder"),
    ],
)
def test_what_no_grid_has_is_a_sentence_and_no_result(tmp_path, capsys, arguments, words):
    try:
        status = main([*arguments, *places(tmp_path)])
    except SystemExit as refused:  # argparse's way
        status = refused.code
    assert status in (1, 2)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("name", ["loader", "growth", "kernels"])
def test_a_result_that_could_not_be_written_is_refused_before_anything_is_measured(tmp_path, capsys, name):
    (tmp_path / "file").write_text("in the way")
    below = tmp_path / "file" / "out.json"
    for place, words in ((below, f"--out {below} cannot be written: "), (tmp_path, "is a folder")):
        assert main([name, "--work", str(tmp_path / "work"), "--out", str(place)]) == 1
        assert words in capsys.readouterr().err
    assert list((tmp_path / "work").iterdir()) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "work"]


@pytest.mark.long
def test_a_worker_that_dies_while_it_writes_the_file_leaves_nothing(suite, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no JPEG")
    done = suite("loader", "--data", str(tmp_path / "photos"), "--files", "raw", *places(tmp_path))
    assert done.returncode == 1
    assert "python -m benchmarks loader: ffcv_gpu:" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out.json").exists()
    assert {path.suffix for path in (tmp_path / "work").iterdir()} == {".json"}  # the list of photographs


def test_a_worker_that_dies_in_a_turn_is_a_row_and_the_exit_status(monkeypatch, tmp_path, capsys):
    asked = Worker.ask

    def ask(self, do, **request):
        if do == "epoch" and self.name == "ffcv_gpu float16":
            self._process.kill()
        return asked(self, do, **request)

    monkeypatch.setattr(Worker, "ask", ask)
    monkeypatch.setenv("FFCV_GPU_FFCV_PYTHON", str(tmp_path / "no-such-python"))
    small = ["--rounds", "1", "--samples", "8", "--batch-size", "4", "--side", "32", "--cores", "1"]
    assert main(["loader", *small, "--files", "raw", "--case", "headline", *places(tmp_path)]) == 1
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    dead, alive = rows["ffcv_gpu float16"], rows["ffcv_gpu uint8"]
    assert dead["failed"] and not dead["repeats"] and "status -9" in dead["missing"]
    assert len(alive["repeats"]) == 1
    assert "| failed" in capsys.readouterr().out


@pytest.mark.long
def test_cold_turns_say_how_cold_they_were(suite, tmp_path):
    small = ["--rounds", "1", "--samples", "8", "--batch-size", "4", "--side", "32", "--cores", "1"]
    done = suite("loader", *small, "--case", "50 % JPEG, 500 px, 1 core, cold", *places(tmp_path))
    found = result(tmp_path, done)
    (row,) = [row for row in found["rows"] if not row["missing"]]
    (turn,) = row["repeats"]
    assert turn["resident_before"] <= turn["resident_after"] <= 1
    assert turn["images"] == 8
    assert turn["jpeg_bytes"] < turn["source_pixels"] * 3
    assert turn["peak_bytes"] > 50e6
    assert row["settings"]["cache"] == "cold"
    assert any(note.startswith("cold: at most ") for note in found["notes"])


@pytest.mark.long
def test_growth_compares_the_points_of_an_axis(suite, tmp_path):
    small = ["--rounds", "2", "--samples", "12", "--images", "16"]
    found = result(
        tmp_path, suite("growth", *small, "--case", "batch_size", "--points", "4", "8", *places(tmp_path))
    )
    first, second = found["rows"]
    assert (first["name"], second["name"]) == ("batch size 4", "batch size 8")
    assert second["reference"] == "batch size 4"
    assert second["ratio"].keys() >= {"images/s", "peak memory"}
    # 12 of one epoch, then batches of 4, or one of 8, until there are 16
    assert [[turn["images"] for turn in row["repeats"]] for row in found["rows"]] == [[16, 16], [20, 20]]
    assert first["repeats"][0]["epochs"] == 2


def test_growth_makes_files_of_any_length(tmp_path):
    photos = find_photos(None, tmp_path)
    path = file_of({"source": "small raw", "pixels": 16, "samples": 5000}, photos, tmp_path)
    beton = open_beton(path)
    assert verify_structure(beton) == []
    assert beton.lengths("image").tolist() == [16 * 16 * 3] * 5000
    assert len(set(beton.offsets("image").tolist())) == 5000
    assert not list(tmp_path.glob("*.part"))


def test_growth_resizes_to_one_size(tmp_path):
    photos = find_photos(None, tmp_path)
    photos = Photos(photos.paths[:3], photos.source, photos.digest)
    path = file_of({"source": "resized", "pixels": 640, "samples": 4}, photos, tmp_path)
    records = open_beton(path).column("image")
    assert set(zip(records["width"].tolist(), records["height"].tolist(), strict=True)) == {(640, 360)}


def test_an_empty_folder_is_refused(suite, tmp_path):
    (tmp_path / "photos").mkdir()
    done = suite("write", "--data", str(tmp_path / "photos"), *places(tmp_path))
    assert done.returncode == 1
    assert "no file ending in .jpg" in done.stderr


def test_packages_without_photographs_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(PACKAGED, "no_such_package.data", ("a.png",))
    with pytest.raises(ValueError, match=r"no_such_package is not installed.*--data"):
        find_photos(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "words"), [("gpu", "what was measured is kept"),
                                                ("kernels", "nothing was written")])  # fmt: skip
def test_an_interrupt_is_a_sentence(monkeypatch, tmp_path, capsys, command, words):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.cli.measure", interrupted)
    monkeypatch.setattr("benchmarks.gpu.command.run", interrupted)
    assert main([command, "--work", str(tmp_path)]) == 130
    assert f"{command}: interrupted; {words}" in capsys.readouterr().err


def test_every_benchmark_has_its_module_and_its_default_result():
    for name in BENCHES:
        assert parse([name]).out.name == f"{name}.json"


def test_a_missing_peer_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv(FFCV.variable, raising=False)
    monkeypatch.setattr(type(FFCV), "home", tmp_path)
    assert FFCV.find() == (None, "not installed; python -m benchmarks setup-peer ffcv")
    python, why = FFCV.find(sys.executable)
    assert python is None
    assert "import fails" in str(why)


def test_setup_names_the_packages_that_pip_cannot_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"apt install pkg-config .*libturbojpeg0-dev libopencv-dev"):
        FFCV.install(tmp_path / "home")
    assert not (tmp_path / "home").exists()

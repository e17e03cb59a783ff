"""The commands on tiny runs, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.bench_memory import slope
from benchmarks.bench_open import PAYLOAD, sparse_file
from benchmarks.cli import BENCHES, parse
from benchmarks.peers import FFCV
from ffcv_gpu.format import open_beton, verify_structure


def places(tmp_path):
    # no patience: a busy machine shall not make tests wait for a quiet one
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
    assert "not run" in done.stdout
    shown = suite("show", str(tmp_path / "out.json"))
    assert shown.stdout.strip() in done.stdout


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


def test_memory_looks_after_every_epoch(suite, tmp_path):
    found = result(
        tmp_path,
        suite(
            "memory",
            "--samples",
            "8",
            "--epochs",
            "3",
            "--warm-epochs",
            "1",
            "--outputs",
            "uint8",
            *places(tmp_path),
        ),
    )
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
    ],
)
def test_bad_input_is_a_sentence_and_no_result(suite, tmp_path, arguments, words):
    done = suite(*arguments, *([] if arguments[0] in ("show", "load") else places(tmp_path)))
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_an_empty_folder_is_refused(suite, tmp_path):
    (tmp_path / "photos").mkdir()
    done = suite("write", "--data", str(tmp_path / "photos"), *places(tmp_path))
    assert done.returncode == 1
    assert "no file ending in .jpg" in done.stderr


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

"""The notebooks run, and are stored as they came out of a run: every cell, with its output."""

import gc
import importlib.util
import sys
from pathlib import Path

import pytest

from ffcv_gpu.kernels._announcer import LONG
from tests.fake_gpu import FakeGpu, put_in_place

pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MEASURING = {"raw_or_jpeg", "slow_loop"}  # by the doctor, most of half a minute; its own tests are elsewhere


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("notebooks_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["decode_profile", "quick_start", "raw_or_jpeg", "slow_loop"]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.long] * (path.stem in MEASURING)) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_it_runs_and_makes_the_same_kinds_of_output(path, runner, tmp_path):
    stored, fresh = nbformat.read(path, as_version=4), runner.execute(path, tmp_path)
    for before, after in zip(code(stored), code(fresh), strict=True):
        assert [o.output_type for o in after.outputs] == [o.output_type for o in before.outputs]
        assert [sorted(o.get("data", {})) for o in after.outputs] == [
            sorted(o.get("data", {})) for o in before.outputs
        ]
        assert not any(o.get("name") == "stderr" for o in after.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_executed_in_order_and_shows_pictures(path):
    cells = code(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert path.stat().st_size < 1 << 20


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_cut_in_the_middle(path):
    said = [output.text for cell in code(nbformat.read(path, as_version=4)) for output in cell.outputs
            if output.output_type == "stream"]  # fmt: skip
    assert [text for text in said if text.count("(") != text.count(")")] == []


def test_compiling_on_a_new_machine_does_not_show(runner, tmp_path):
    """It takes longer than the 2 s after which it is said, or not, by what else the machine does."""
    say = f"logging.warning({LONG % 'here'!r})"
    cells = [f"{say}; print(1)", f"{say}; logging.warning('another')"]
    told = "import logging; logging.basicConfig(format='%(message)s')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (told, *cells)])
    nbformat.write(notebook, tmp_path / "n.ipynb")
    _, one, both = code(runner.execute(tmp_path / "n.ipynb", tmp_path))
    assert [output.text for output in one.outputs] == ["1\n"]
    (output,) = both.outputs
    assert output.name == "stderr" and output.text.endswith("another\n")


def test_every_cell_runs_on_a_gpu(monkeypatch, tmp_path, capsys):
    """The profile's other half: on the fake GPU, with results of one in the place of the committed ones."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    pytest.importorskip("matplotlib.pyplot").close("all")  # other tests' figures
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER.parent)])
    write_results(tmp_path / "benchmarks" / "results" / "a-gpu")
    monkeypatch.setattr("ffcv_gpu.__file__", str(tmp_path / "ffcv_gpu" / "__init__.py"))
    fake, cells = FakeGpu(), {}
    put_in_place(fake, monkeypatch)
    for cell in code(nbformat.read(FOLDER / "decode_profile.ipynb", as_version=4)):
        exec(compile(cell.source, "cell", "exec"), cells)
    said = capsys.readouterr().out
    assert "everything below runs on cuda:0" in said
    assert all(f"{kind}  " in said for kind in ("jpeg: engine", "submit", "launch"))
    assert cells["rates"] == {"mixed, plain": 250.0} and cells["cases"] == ["jpeg, 2 cores"]
    assert cells["compared"] == {"a-gpu": {"ffcv_gpu Loader, 2 cores": 250, "ffcv_gpu decode_jpegs": 250}}
    assert len(cells["plt"].get_fignums()) == 6
    cells["plt"].close("all")
    cells.clear()
    gc.collect()
    fake.close()


def write_results(folder):
    """Write results of a GPU: one case of each experiment, in two runs, of which the newer counts."""
    append = importlib.import_module("benchmarks.gpu.lines").append
    stages = {"row": "fact", "name": "seconds of an epoch by stage, jpeg, 2 cores", "read": 0.5}
    cases = {
        "e15_mixture": ("mixed, plain", {}, []),
        "t1_decode": ("decode_jpegs", {"kind": "pixels"}, []),
        "t2_loader": ("loader, jpeg, 2 cores", {"kind": "batch", "workers": 2}, [stages]),
    }
    for name, (case, settings, more) in cases.items():
        start = {"row": "start", "schema": 1, "experiment": name, "date": "2030", "commit": "c0ffee"}
        where = {"gpu": {"gpu": "NVIDIA X1"}, "machine": {"cores_usable": 2}}
        for rate in (900.0, 250.0):
            repeat = {"row": "repeat", "case": case, "images": rate, "seconds": 1.0}
            result = {"row": "result", "case": case, "images_per_second": rate, **settings}
            for row in ({**start, **where}, repeat, result, *more):
                append(folder / f"{name}.jsonl", row)

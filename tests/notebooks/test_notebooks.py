"""The notebooks run, and are stored as they came out of a run: every cell, with its output."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
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

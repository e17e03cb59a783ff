"""What ``import ffcv_gpu`` costs and gives, in a fresh process; what setup.cfg says against what is there."""

from __future__ import annotations

import ast
import configparser
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import ffcv_gpu

HEAVY = {"cupy", "cv2", "ffcv_gpu.kernels", "numba", "rich", "simplejpeg", "torch", "torchvision", "typer"}


def loaded_by(statement: str, cwd: Path) -> set[str]:
    """Return which modules a new interpreter holds after the statement, run in another folder."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = loaded_by("import ffcv_gpu; ffcv_gpu.__version__; ffcv_gpu.FormatError", tmp_path)
    assert "ffcv_gpu.errors" in loaded
    assert loaded & (HEAVY | {"numpy"}) == set()


@pytest.mark.parametrize("module", ["ffcv_gpu.format", "ffcv_gpu.sampling", "ffcv_gpu.kernels.codes"])
def test_the_file_format_needs_numpy_alone(module: str, tmp_path: Path) -> None:
    assert loaded_by(f"import {module}", tmp_path) & (HEAVY - {"ffcv_gpu.kernels"}) == set()


def test_every_name_that_is_imported_is_there(root: Path) -> None:
    """mypy does not see into kernels/, and what only a GPU runs is imported by no other test."""
    pytest.importorskip("numba.cuda")
    missing, folders = [], ("ffcv_gpu", "kernels", "benchmarks")
    for path in (path for folder in folders for path in (root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ffcv_gpu.kernels"):
                found = importlib.import_module(node.module or "")
                names = [alias.name for alias in node.names if not hasattr(found, alias.name)]
                missing += [(path.name, name) for name in names if not find_spec(f"{node.module}.{name}")]
    assert missing == []


@pytest.mark.parametrize("name", ffcv_gpu.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ffcv_gpu, name) is not None
    assert name in dir(ffcv_gpu)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DataLoader'"):
        ffcv_gpu.DataLoader


def setup_cfg(root: Path) -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    return config


def test_setup_cfg_lists_every_package(root: Path) -> None:
    folders = {path.parent.relative_to(root) for path in (root / "ffcv_gpu").rglob("__init__.py")}
    folders |= {Path("ffcv_gpu") / "kernels"}
    listed = setup_cfg(root)["options"]["packages"].split()
    assert listed == sorted(".".join(folder.parts) for folder in folders)


def test_the_version_is_said_once(root: Path) -> None:
    assert setup_cfg(root)["metadata"]["version"] == ffcv_gpu.__version__


def test_the_kernels_are_installed_inside_the_package(root: Path) -> None:
    from ffcv_gpu.kernels import codes

    assert Path(codes.__file__).parent == root / "kernels"

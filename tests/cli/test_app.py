"""The command line as a whole: help, errors, what importing it costs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ffcv_gpu

VERBS = ("write", "info", "verify", "bench", "doctor")
HEAVY = {"cupy", "cv2", "numba", "numpy", "simplejpeg", "torch", "ffcv_gpu.loader", "ffcv_gpu.writer"}


def process(*arguments: object, cwd: Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-m", "ffcv_gpu"] if code is None else ["-c", code]
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_teaches(run, verb):
    overview, page = run("--help"), run(verb, "--help")
    assert overview.exit_code == page.exit_code == 0
    assert f"  {verb} " in overview.output
    assert f"\n    ffcv-gpu {verb}" in page.output  # an example, on a line of its own
    assert "..." not in overview.output.partition("Commands:")[2]  # nothing cut short


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['ffcv-gpu', '--help']\n"
        "from ffcv_gpu.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print('status', end.code, *sys.modules)\n"
    )
    last = process(cwd=tmp_path, code=code).stdout.splitlines()[-1].split()
    assert last[:2] == ["status", "0"]
    assert "ffcv_gpu.cli.verify" in last
    assert set(last) & HEAVY == set()


def test_the_door_alone_imports_no_parser(tmp_path):
    loaded = process(cwd=tmp_path, code="import sys, ffcv_gpu.cli; print(*sys.modules)").stdout.split()
    assert "ffcv_gpu.cli" in loaded
    assert {"typer", "rich", "numpy"} & set(loaded) == set()


def test_both_ways_in_are_one(tmp_path):
    module = process("--version", cwd=tmp_path)
    script = subprocess.run(
        [Path(sys.executable).with_name("ffcv-gpu"), "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout == script.stdout == f"ffcv-gpu {ffcv_gpu.__version__}\n"
    assert module.returncode == 0


def test_a_name_that_the_terminal_cannot_show(small, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (tmp_path / "grün.beton").symlink_to(small)
    assert "gr\\xfcn.beton: 14 samples" in process("verify", "grün.beton", cwd=tmp_path).stdout
    found = json.loads(process("info", "grün.beton", "--json", cwd=tmp_path).stdout)
    assert found["file"] == "grün.beton"


@pytest.mark.parametrize("verb", ["info", "verify", "bench", "doctor"])
def test_a_missing_file_is_one_line_and_status_2(run, verb, tmp_path):
    result = run(verb, tmp_path / "none.beton")
    assert result.exit_code == 2
    assert result.stderr == f"ffcv-gpu: cannot read {tmp_path}/none.beton: No such file or directory\n"
    assert result.stdout == ""


@pytest.mark.parametrize("verb", ["info", "verify", "bench", "doctor"])
def test_a_folder_is_one_line_and_status_2(run, verb, tmp_path):
    result = run(verb, tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"ffcv-gpu: cannot read {tmp_path}: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", ["info", "verify", "bench", "doctor"])
def test_another_kind_of_file_is_one_line_and_status_1(run, verb, tmp_path):
    path = tmp_path / "text.beton"
    path.write_bytes(b"This is a text, and no dataset at all. " * 100)
    result = run(verb, path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"ffcv-gpu: {path}: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_debug_shows_the_traceback(tmp_path):
    quiet = process("info", "none.beton", cwd=tmp_path)
    loud = process("--debug", "info", "none.beton", cwd=tmp_path)
    assert quiet.returncode == 2
    assert "Traceback" not in quiet.stderr
    assert loud.returncode != 0
    assert "Traceback" in loud.stderr
    assert "FileNotFoundError" in loud.stderr
    several = process("--debug", "info", "none.beton", "none.beton", cwd=tmp_path)
    assert "FileNotFoundError" in several.stderr


def test_wrong_use_is_status_2(run):
    for arguments in (["polish", "x.beton"], ["info"], ["info", "--jsn", "x.beton"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Error" in result.stderr or "Usage" in result.stderr


def test_closed_streams(small, tmp_path):
    """As of `>&-` in a shell: the command works, and nothing lands in another stream or in a file."""
    start = [sys.executable, "-m", "ffcv_gpu"]
    command = f"exec {shlex.join([*start, 'info', str(small)])} >&-"
    silent = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert (silent.returncode, silent.stderr) == (0, "")
    command = f"exec {shlex.join([*start, 'info', str(tmp_path / 'none.beton')])} 2>&-"
    failed = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert (failed.returncode, failed.stdout) == (2, "")


def test_a_class_that_is_no_field_is_one_line(run, small):
    result = run("info", small, "--custom-field", "label=json:JSONDecoder")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "JSONDecoder'>, given for 'label', is not a Field class" in result.stderr


def test_an_error_of_the_system_has_no_number(run, photo_folder, small, tmp_path):
    none = tmp_path / "none" / "a.beton"
    for arguments in (["write", photo_folder, none], ["merge", small, "-o", none]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"ffcv-gpu: cannot write {none}: No such file or directory; ")

"""README.md is executed: every Python block, and every command is checked by a rule or fails.

Python blocks run in order, as one script, in an empty folder, in a process of their own; `ffcv-gpu`
commands run there afterwards, on the files the blocks wrote. A block in another language, or a command
no rule covers, is a failure: add the rule that shows that it works.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PROSE = {"text"}  # pictures and output


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of its first line of text, counted from 1
    text: str

    @property
    def commands(self) -> list[str]:
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def blocks(markdown: str) -> list[Block]:
    """Return the fenced blocks; an indented or untagged fence is a block of language ""."""
    found: list[Block] = []
    lines = markdown.splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if start is None:
            start = number
        else:
            tag = lines[start].strip().removeprefix("```").strip()
            found.append(Block(tag, start + 2, "\n".join(lines[start + 1 : number])))
            start = None
    assert start is None, f"README line {start}: a block that never ends"
    return found


def script(found: list[Block]) -> str:
    """Join the Python blocks, each on the lines it has in the README, so that a traceback points there."""
    text = ""
    for block in found:
        if block.language == "python":
            text += "\n" * (block.line - 1 - text.count("\n")) + block.text + "\n"
    return text


# ---- rules for commands; each takes the command, the repository and the folder of the Python blocks


def make_target(command: str, root: Path, _: Path) -> None:
    """The target exists and what it would run is there. The tests and .ci/run run the targets themselves."""
    done = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"(?<![\w/.])(?:examples|benchmarks)/\w+\.py", done.stdout):
        assert (root / path).is_file(), f"{command!r} would run {path}, which is not there"


def pip_extras(command: str, root: Path, _: Path) -> None:
    """Every extra named exists; the project itself is installed already."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    named = re.search(r"\[(.*)\]", command)
    assert named is not None
    assert set(named[1].split(",")) <= set(config["options.extras_require"])


def run_command(command: str, _: Path, folder: Path) -> None:
    """Run the installed program on what the Python blocks wrote."""
    program = Path(sys.executable).with_name("ffcv-gpu")
    done = subprocess.run([program, *shlex.split(command)[1:]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


RULES: dict[str, Callable[[str, Path, Path], None]] = {
    r"make (demo|test|test-long|lint|bench|gpu|notebooks)( [A-Z_]+=\S+)*": make_target,
    r'pip install (-e )?"?\.\[[\w,]+\]"?': pip_extras,
    r"ffcv-gpu .*": run_command,
}


def rule(command: str) -> Callable[[str, Path, Path], None] | None:
    return next((check for pattern, check in RULES.items() if re.fullmatch(pattern, command)), None)


def uncovered(found: list[Block]) -> list[str]:
    """Return what nothing here would check."""
    problems = []
    for block in found:
        where = f"README line {block.line}"
        if block.language == "sh":
            problems += [f"{where}: no rule for {c!r}" for c in block.commands if rule(c) is None]
        elif block.language in PROSE:
            # A command is code, however its block is tagged.
            hidden = [c for c in block.commands if c.startswith("$ ") or rule(c) is not None]
            problems += [f"{where}: {c!r} stands in a {block.language} block" for c in hidden]
        elif block.language != "python":
            problems.append(f"{where}: blocks of language {block.language!r} are not checked")
    return problems


@pytest.fixture(scope="module")
def readme(root: Path) -> list[Block]:
    return blocks((root / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def played(readme: list[Block], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the Python blocks have run."""
    folder = tmp_path_factory.mktemp("readme")
    source = folder / "README.py"
    source.write_text(script(readme), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, source.name], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder


def test_every_block_is_covered(readme: list[Block]) -> None:
    assert {"python", "sh"} <= {block.language for block in readme}
    assert uncovered(readme) == []


def test_the_python_blocks_run(played: Path) -> None:
    assert list(played.glob("*.beton"))


def test_the_commands_hold(readme: list[Block], root: Path, played: Path) -> None:
    for block in readme:
        for command in block.commands if block.language == "sh" else []:
            check = rule(command)
            assert check is not None
            check(command, root, played)


def test_every_test_that_is_named_is_there(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)`", text))
    assert named
    assert [path for path in sorted(named) if not (root / "tests" / path).is_file()] == []


def test_every_file_that_is_linked_is_there(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)#\s]+)", text)) | set(
        re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)
    )
    paths = {path for path in linked if "://" not in path}
    assert any(path.endswith(".jsonl") for path in paths)
    assert [path for path in sorted(paths) if not (root / path).exists()] == []


def test_every_table_is_one(root: Path) -> None:
    """Rows without a header and its line of dashes are shown as running text."""
    for page in (root / "README.md", root / "benchmarks" / "RESULTS.md", root / "examples" / "README.md"):
        lines = ["", *page.read_text(encoding="utf-8").splitlines(), ""]
        for number, (before, line, after) in enumerate(zip(lines, lines[1:], lines[2:], strict=False), 1):
            if line.startswith("|") and not before.startswith("|"):
                assert re.fullmatch(r"\|([ :-]+\|)+", after), f"{page.name}, line {number}: {line}"
                assert after.count("|") == line.count("|"), f"{page.name}, line {number}: {line}"


def test_continuous_integration_runs_the_readmes_command(readme: list[Block], root: Path) -> None:
    ci = root / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert re.search(r"^(time )?make test\b", ci.read_text(encoding="utf-8"), re.MULTILINE)
    assert "make test" in [command for block in readme for command in block.commands]


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("```sh\nrm -rf build\n```", "no rule for 'rm -rf build'"),
        ("```sh\nmake test && make surprise\n```", "no rule for"),
        ("```bash\nmake test\n```", "language 'bash'"),
        ("```\nmake test\n```", "language ''"),
        ("```text\nmake test\n```", "stands in a text block"),
        ("- item\n  ```c\n  int x;\n  ```", "language 'c'"),
    ],
)
def test_a_block_nothing_checks_is_caught(markdown: str, expected: str) -> None:
    problems = uncovered(blocks(markdown))
    assert len(problems) == 1
    assert expected in problems[0]


def test_a_script_keeps_the_readmes_lines() -> None:
    markdown = "# a\n\n```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n"
    lines = script(blocks(markdown)).splitlines()
    assert (lines[3], lines[9]) == ("x = 1", "assert x == 2")


def test_a_target_that_is_not_there_is_caught(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="surprise"):
        make_target("make surprise", root, tmp_path)


def test_a_rehearsal_installs_what_the_fake_gpu_needs(root: Path, tmp_path: Path) -> None:
    """Without a driver the CUDA extras are left out, and the compiler with them."""
    command = ["make", "-n", "gpu", f"VENV={tmp_path / 'venv'}"]
    for arguments, extra in (("ARGS=--rehearse", "test"), ("ARGS=--brief", "bench")):
        done = subprocess.run([*command, arguments], cwd=root, capture_output=True, text=True)
        assert re.search(rf"ffcv-gpu\[[\w,]*\b{extra}\]", done.stdout), done.stdout + done.stderr

"""A peer: how it is installed, how its environment is found, and why it may be missing."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import own_packages
from benchmarks.machine import ROOT

__all__ = ["Peer", "Rows"]

#: for the import of a library, from a slow disk
PROBE_SECONDS = 300

#: rows of a benchmark, by name: settings that its worker gets and that the result records
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes
    ----------
    name
        on the command line: ``python -m benchmarks setup-peer NAME``, ``--NAME-python``
    script
        its worker, in ``workers/``
    steps
        arguments of ``pip install``, one call each; empty: it comes with the suite
    needs
        what pip cannot install: module of pkg-config -> Debian packages
    environment
        name of an environment shared by several peers; "": a separate one
    own
        whether the Python that runs the suite may be used, if `probe` succeeds there
    probe
        Python code that must run; "": ``import NAME``
    hint
        what to do, or the cause, if that fails
    loader, decoder
        rows in the benchmarks ``peers`` and ``decode``
    """

    name: str
    script: str
    steps: tuple[tuple[str, ...], ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    environment: str = ""
    own: bool = False
    probe: str = ""
    hint: str = ""
    loader: Rows = field(default_factory=dict)
    decoder: Rows = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """The environment variable that names its Python."""
        return f"FFCV_GPU_{self.name.upper().replace('-', '_')}_PYTHON"

    @property
    def home(self) -> Path:
        """Where `install` creates its environment (ignored by git)."""
        return ROOT / "bench-output" / "peers" / (self.environment or self.name)

    def find(self, given: str | None = None, folder: Path | None = None) -> tuple[str | None, str | None]:
        """Return (path of a Python, None), or (None, why there is none).

        The one given on the command line, else that of the environment variable, else that in `folder` (of
        environments; default: that of `install`), else, if `own`, the one that runs this.
        """
        python = given or os.environ.get(self.variable) or self._installed(folder)
        if python is None:
            return None, f"not installed; python -m benchmarks setup-peer {self.name}"
        try:
            code = self.probe or f"import {self.name}"
            subprocess.run(
                [python, "-c", code], check=True, capture_output=True, text=True, cwd="/", env=own_packages(),
                stdin=subprocess.DEVNULL, timeout=PROBE_SECONDS,
            )  # fmt: skip
        except OSError as error:
            return None, f"its Python does not start: {error.strerror}"
        except subprocess.TimeoutExpired:
            return None, f"its check, or the import, did not end within {PROBE_SECONDS} s"
        except subprocess.CalledProcessError as error:
            what = "its check" if self.probe else "import"
            # Results contain no paths of the machine.
            words = last_line(error.stderr).replace(str(Path(python).parent.parent), "...")
            return None, "; ".join(filter(None, (f"{what} fails: {words}", self.hint)))
        return python, None

    def _installed(self, folder: Path | None) -> str | None:
        home = folder / self.home.name if folder else self.home
        own = home / "bin" / "python"
        return str(own.absolute()) if own.exists() else sys.executable if self.own else None

    def install(self, home: Path | None = None, options: Sequence[str] = ()) -> Path:
        """Create the environment; returns its Python. `options` are added to each ``pip install``.

        An environment shared by several peers is added to, any other is created again.

        Raises
        ------
        RuntimeError
            If something that pip cannot install is missing, pip fails, or `home` is a folder of other things.
        """
        for module, packages in self.needs.items():
            if not has_pkg_config(module):
                raise RuntimeError(f"{self.name} is compiled against {module}: apt install {packages}")
        home = home or self.home
        if home.exists() and not (home / "pyvenv.cfg").exists() and any(home.iterdir()):
            raise RuntimeError(f"{home} is not empty and no environment: it would be emptied")
        python = home / "bin" / "python"
        if not (self.environment and python.exists()):
            venv.create(home, with_pip=True, clear=True)
        for step in ((*step, *options) for step in self.steps):
            print("pip install", *step, file=sys.stderr)
            if subprocess.run([str(python), "-m", "pip", "install", "-q", *step], cwd="/").returncode:
                raise RuntimeError(f"pip install {' '.join(step)} failed; {home} is not usable")
        return python


def last_line(text: str) -> str:
    """Return the last line of a program's output, shortened for a table."""
    lines = text.strip().splitlines()
    line = lines[-1] if lines else "no output"
    return line if len(line) <= 200 else f"{line[:197]}..."


def has_pkg_config(module: str) -> bool:
    """Return whether pkg-config is installed and knows `module`."""
    try:
        return subprocess.run(["pkg-config", "--exists", module], check=False).returncode == 0
    except OSError:
        return False

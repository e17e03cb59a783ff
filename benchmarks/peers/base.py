"""What a peer is: how it is installed aside, how its environment is found, and why it may be missing."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT

__all__ = ["Peer", "Rows"]

#: rows of a benchmark, by name: the settings that its worker is asked with, and that the result carries
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
        arguments of ``pip install``, one call each; none: it comes with the suite
    needs
        what pip cannot install, by what to look for: a file name of pkg-config's -> Debian packages
    environment
        name of one that several peers share; "": its own
    own
        whether the Python that runs the suite will do, where it has what `probe` wants
    probe
        Python code that must run; "": ``import NAME``
    hint
        what to do, or to know, when that fails
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
        """The environment variable that names its interpreter."""
        return f"FFCV_GPU_{self.name.upper().replace('-', '_')}_PYTHON"

    @property
    def home(self) -> Path:
        """Where `install` puts it (ignored by git)."""
        return ROOT / "bench-output" / "peers" / (self.environment or self.name)

    def find(self, given: str | None = None, folder: Path | None = None) -> tuple[str | None, str | None]:
        """Return (interpreter, None), or (None, why there is none).

        The interpreter given on the command line, else the variable's, else that in `folder`, a folder of
        environments, or of `install`, else, if that may do, the one that runs this.
        """
        python = given or os.environ.get(self.variable) or self._installed(folder)
        if python is None:
            return None, f"not installed; python -m benchmarks setup-peer {self.name}"
        try:
            code = self.probe or f"import {self.name}"
            subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd="/")
        except OSError as error:
            return None, f"its interpreter does not start: {error.strerror}"
        except subprocess.CalledProcessError as error:
            what = "its check" if self.probe else "import"
            # A result names no folders of the machine.
            words = last_line(error.stderr).replace(str(Path(python).parent.parent), "...")
            return None, "; ".join(filter(None, (f"{what} fails: {words}", self.hint)))
        return python, None

    def _installed(self, folder: Path | None) -> str | None:
        home = folder / self.home.name if folder else self.home
        own = home / "bin" / "python"
        return str(own.absolute()) if own.exists() else sys.executable if self.own else None

    def install(self, home: Path | None = None, options: Sequence[str] = ()) -> Path:
        """Make the environment; returns its interpreter. `options` are added to each ``pip install``.

        An environment that several peers share is added to, any other is made anew.

        Raises
        ------
        RuntimeError
            If something is missing that pip cannot install, or pip fails.
        """
        for module, packages in self.needs.items():
            if not has_pkg_config(module):
                raise RuntimeError(f"{self.name} is compiled against {module}: apt install {packages}")
        home = home or self.home
        python = home / "bin" / "python"
        if not (self.environment and python.exists()):
            venv.create(home, with_pip=True, clear=True)
        for step in ((*step, *options) for step in self.steps):
            print("pip install", *step, file=sys.stderr)
            if subprocess.run([str(python), "-m", "pip", "install", "-q", *step], cwd="/").returncode:
                raise RuntimeError(f"pip install {' '.join(step)} failed; {home} is not usable")
        return python


def last_line(text: str) -> str:
    """The last line that a program wrote, shortened to what a table can hold."""
    lines = text.strip().splitlines()
    line = lines[-1] if lines else "without a word"
    return line if len(line) <= 200 else f"{line[:197]}..."


def has_pkg_config(module: str) -> bool:
    """Whether pkg-config is there and knows `module`."""
    try:
        return subprocess.run(["pkg-config", "--exists", module], check=False).returncode == 0
    except OSError:
        return False

"""What a peer is: how it is installed aside, how its environment is found, and why it may be missing."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Peer"]

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes
    ----------
    name
        on the command line: ``python -m benchmarks setup-peer NAME``, ``--NAME-python``
    version
        that of the comparison
    script
        its worker, in ``workers/``
    steps
        arguments of ``pip install``, one call each
    needs
        what pip cannot install, by what to look for: a file name of pkg-config's -> Debian packages
    """

    name: str
    version: str
    script: str
    steps: tuple[tuple[str, ...], ...]
    needs: Mapping[str, str] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """The environment variable that names its interpreter."""
        return f"FFCV_GPU_{self.name.upper()}_PYTHON"

    @property
    def home(self) -> Path:
        """Where `install` puts it (ignored by git)."""
        return ROOT / "bench-output" / "peers" / self.name

    def find(self, given: str | None = None) -> tuple[str | None, str | None]:
        """Return (interpreter, None), or (None, why there is none).

        The interpreter given on the command line, else the variable's, else that of `install`.
        """
        own = self.home / "bin" / "python"
        python = given or os.environ.get(self.variable) or (str(own) if own.exists() else None)
        if python is None:
            return None, f"not installed; python -m benchmarks setup-peer {self.name}"
        try:
            subprocess.run(
                [python, "-c", f"import {self.name}"], check=True, capture_output=True, text=True, cwd="/"
            )
        except OSError as error:
            return None, f"its interpreter does not start: {error}"
        except subprocess.CalledProcessError as error:
            return None, f"import fails: {error.stderr.strip().splitlines()[-1]}"
        return python, None

    def install(self, home: Path | None = None, options: Sequence[str] = ()) -> Path:
        """Make the environment; returns its interpreter. `options` are added to each ``pip install``.

        Raises
        ------
        RuntimeError
            If something is missing that pip cannot install, or pip fails.
        """
        for module, packages in self.needs.items():
            if not has_pkg_config(module):
                raise RuntimeError(f"{self.name} is compiled against {module}: apt install {packages}")
        home = home or self.home
        venv.create(home, with_pip=True, clear=True)
        python = home / "bin" / "python"
        for step in ((*step, *options) for step in self.steps):
            print("pip install", *step, file=sys.stderr)
            if subprocess.run([str(python), "-m", "pip", "install", "-q", *step], cwd="/").returncode:
                raise RuntimeError(f"pip install {' '.join(step)} failed; {home} is not usable")
        return python


def has_pkg_config(module: str) -> bool:
    """Whether pkg-config is there and knows `module`."""
    try:
        return subprocess.run(["pkg-config", "--exists", module], check=False).returncode == 0
    except OSError:
        return False

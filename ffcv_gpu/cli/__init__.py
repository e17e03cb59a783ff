"""The command line: ``ffcv-gpu write | info | verify | merge | bench | doctor``, one module per command.

``app`` assembles the commands, ``page`` prints, ``opening`` reads a file's description, ``summary``
collects what ``info`` shows, and ``checking`` checks every payload for ``verify``.
"""

from __future__ import annotations

import io
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line on ``sys.argv`` and exit with its status."""
    # Not at module level: the processes that `verify` spawns import this module and need no parser.
    from ffcv_gpu.cli.app import app

    for stream in ("stdin", "stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed, as by `>&-`: the next file opened must not take its place
            setattr(sys, stream, open(os.devnull, "r" if stream == "stdin" else "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name in the file may not fit the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="ffcv-gpu")

"""The command line: ``ffcv-gpu write | info | verify | merge | bench | doctor``, one file a verb.

``app`` puts the verbs together, ``page`` prints, ``opening`` reads a file's description, ``summary``
collects what ``info`` shows, ``checking`` is what ``verify`` runs over every payload.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line on ``sys.argv`` and leave the process with its status."""
    # Not at import: the processes that `verify` starts import this module again, and need no parser.
    from ffcv_gpu.cli.app import app

    app(prog_name="ffcv-gpu")

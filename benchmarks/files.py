"""Files that benchmarks make once and find again: whole, or not there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["listing", "written"]


def written(target: Path, write: Callable[[Path], Any]) -> Path:
    """Return a file or a folder, written unless it is there; `write` is given another place for it.

    Several processes may do so at once.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}-{time.monotonic_ns()}.part")
        try:
            write(part)
            if not target.is_dir():  # another process's folder is as good, and would not give way
                part.replace(target)
        finally:
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    return target


def listing(paths: Iterable[Path], target: Path) -> Path:
    """Write paths as JSON, for workers; returns `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps([str(path.resolve()) for path in paths]), encoding="utf-8")
    return target

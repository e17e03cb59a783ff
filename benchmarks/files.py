"""Files that benchmarks write once and reuse: complete, or absent."""

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
    """Return a file or folder, written unless it exists; `write` gets a temporary path.

    Safe if several processes do so at once.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}-{time.monotonic_ns()}.part")
        try:
            write(part)
            if not target.is_dir():  # another process was faster; a folder cannot be replaced
                part.replace(target)
        finally:
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    return target


def listing(paths: Iterable[Path], target: Path) -> Path:
    """Write paths as JSON, for workers; returns `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps([str(path.resolve()) for path in paths]), encoding="utf-8")
    return target

"""PTX of kernels, made without a GPU and kept on disk: it takes numba some 7 s for a fused kernel."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ffcv_gpu.kernels._kept import folder_digest

__all__ = ["ptx_of"]

#: pytest's own, so that its workers and later runs find it, and --cache-clear empties it
FOLDER = Path(__file__).resolve().parents[2] / ".pytest_cache" / "d" / "ptx"


@functools.cache
def ptx_of(
    kernel: Callable[..., None],
    types: Sequence[str],
    capability: tuple[int, int],
    bounds: tuple[int, int] | None = None,
) -> str:
    """Return the PTX of a plain function with these types of arguments.

    Parameters
    ----------
    types : tuple of str
        numpy's names; those of flat arrays end in "*".
    bounds : (int, int), optional
        `launch_bounds` of `cuda.jit`.
    """
    captured = [cell.cell_contents for cell in kernel.__closure__ or ()]
    what = [kernel.__module__, kernel.__qualname__, captured, types, capability, bounds]
    what += [folder_digest(), *map(version, ("numba", "numba-cuda", "numpy"))]
    path = FOLDER / f"{hashlib.sha256(repr(what).encode()).hexdigest()}.ptx"
    with suppress(OSError):
        return path.read_text()
    ptx = compile_ptx(kernel, types, capability, bounds)
    with suppress(OSError):
        keep(path, ptx)
    return ptx


def compile_ptx(
    kernel: Callable[..., None],
    names: Sequence[str],
    capability: tuple[int, int],
    bounds: tuple[int, int] | None,
) -> str:
    from numba import cuda, from_dtype, types

    kinds = [
        types.Array(from_dtype(np.dtype(name[:-1])), 1, "C") if name.endswith("*") else getattr(types, name)
        for name in names
    ]
    ptx, _ = cuda.compile(
        kernel,
        types.void(*kinds),
        cc=capability,
        output="ptx",
        device=False,
        abi="numba",
        launch_bounds=bounds,
    )
    return str(ptx)


def keep(path: Path, text: str) -> None:
    """Write a file at once: another process never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(part).replace(path)

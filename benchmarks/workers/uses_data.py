"""The files of ``uses``: samples made up on the spot, written by either library.

What pixels and numbers say has no influence on speed: none of it is compressed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["DATA", "written_by"]

#: different samples; they are stored over and over
DIFFERENT = 512


class Samples:
    """`count` samples, made by their number."""

    def __init__(self, count: int, make: Callable[[int], tuple[Any, ...]]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._make(int(index))


def images(fields: Any, size: int) -> tuple[dict[str, Any], Callable[[int], tuple[Any, ...]]]:
    """Squares of `size` pixels, stored raw, with a class."""
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (DIFFERENT, size, size, 3), np.uint8)
    kinds = {"image": fields.RGBImageField(write_mode="raw"), "label": fields.IntField()}
    return kinds, lambda index: (pixels[index % DIFFERENT], index % 10)


def table(fields: Any, size: int) -> tuple[dict[str, Any], Callable[[int], tuple[Any, ...]]]:
    """Rows of `size` float32, with a number."""
    import numpy as np

    rows = np.random.default_rng(0).random((DIFFERENT, size), np.float32)
    kinds = {"covariate": fields.NDArrayField(np.dtype("float32"), (size,)), "label": fields.FloatField()}
    return kinds, lambda index: (rows[index % DIFFERENT], float(index))


def numbers(fields: Any, size: int) -> tuple[dict[str, Any], Callable[[int], tuple[Any, ...]]]:
    """`size` integers and nothing else."""
    kinds = {f"number {k}": fields.IntField() for k in range(size)}
    return kinds, lambda index: tuple(index + k for k in range(size))


def texts(fields: Any, size: int) -> tuple[dict[str, Any], Callable[[int], tuple[Any, ...]]]:
    """A tenth of `size` to `size` bytes each, with a class."""
    import numpy as np

    rng = np.random.default_rng(0)
    strings = [rng.integers(0, 256, length, np.uint8) for length in rng.integers(size // 10, size, DIFFERENT)]
    kinds = {"text": fields.BytesField(), "label": fields.IntField()}
    return kinds, lambda index: (strings[index % DIFFERENT], index % 10)


def notes(fields: Any, size: int) -> tuple[dict[str, Any], Callable[[int], tuple[Any, ...]]]:
    """JSON with texts of up to `size` letters."""
    kinds = {"note": fields.JSONField(), "label": fields.IntField()}
    return kinds, lambda index: ({"number": index, "words": "x" * (index % size)}, index % 10)


DATA = {"images": images, "table": table, "numbers": numbers, "texts": texts, "notes": notes}


def written_by(library: str, data: str, size: int, samples: int, target: str, workers: int) -> None:
    """Write `target` by "ffcv" or "ffcv_gpu"."""
    writer = importlib.import_module(f"{library}.writer")
    fields, make = DATA[data](importlib.import_module(f"{library}.fields"), size)
    writer.DatasetWriter(target, fields, num_workers=workers).from_indexed_dataset(Samples(samples, make))

"""Where the payloads of a whole file go in another one: page by page, or sample by sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError
from ffcv_gpu.writer.pages import Pages, Run
from ffcv_gpu.writer.whole import Contents

__all__ = ["Moves", "moved_pages", "moved_samples"]

_Ints = npt.NDArray[np.int64]


class Moves(NamedTuple):
    """How a file's payloads move.

    Attributes
    ----------
    runs : list of Run
        What to copy: bytes `start` to `stop` of the file, to byte `offset` of the new one.
    by_row : uint64 (samples,)
        Added to each sample's pointers; wraps around, since payloads may move towards the front.
    """

    runs: list[Run]
    by_row: npt.NDArray[np.uint64]


def moved_pages(file: Contents, pages: Pages) -> Moves:
    """Move whole pages behind the existing ones."""
    begin = pages.reserve(file.end - file.begin)
    move = np.full(len(file.metadata), begin - file.begin, np.int64).view(np.uint64)
    return Moves([Run(file.begin, file.begin + len(file.data), begin)], move)


def moved_samples(file: Contents, pages: Pages) -> Moves:
    """Move each sample to where it would be if it were written now; needs the table in sample order.

    Raises
    ------
    FormatError
        If the payloads of a sample are not contiguous and in order, as the writer stores them.
    """
    table = file.table
    samples, places = table["sample_id"].astype(np.int64), table["ptr"].astype(np.int64)
    # An empty payload occupies one byte, as in the encoder.
    sizes = np.maximum(table["size"], 1).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    first = np.searchsorted(samples, np.arange(len(file.metadata) + 1))
    bounds, stored = ends[first], first[:-1] < first[1:]
    begins = np.zeros(len(file.metadata), np.int64)
    begins[stored] = places[first[:-1][stored]]
    if np.any(places - begins[samples] != ends[:-1] - bounds[samples]):
        raise FormatError(f"{file.path}: its payloads are not laid out as the writer does it; write it again")
    offsets, _ = pages.place(bounds)
    moves = (offsets - begins).view(np.uint64)
    return Moves(_runs(begins[stored], np.diff(bounds)[stored], offsets[stored]), moves)


def _runs(begins: _Ints, sizes: _Ints, to: _Ints) -> list[Run]:
    """Join samples that are adjacent both before and after the move."""
    ends = begins + sizes
    apart = (begins[1:] != ends[:-1]) | (to[1:] != to[:-1] + sizes[:-1])
    first = np.flatnonzero(np.concatenate([[True], apart])[: len(begins)])
    last = np.concatenate([first[1:], [len(begins)]])[: len(first)] - 1
    columns = begins[first].tolist(), ends[last].tolist(), to[first].tolist()
    return [Run(*run) for run in zip(*columns, strict=True)]

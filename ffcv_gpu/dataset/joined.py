"""Several files as one: the columns of the first, then those of the next, and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.agreement import agreed_class_names, check_same_fields
from ffcv_gpu.dataset.file import OpenFile
from ffcv_gpu.steps import IntArray

__all__ = ["JoinedBeton", "place_side_by_side"]

#: in place of the checksum of a payload that has none
NO_CHECKSUM = -1


def place_side_by_side(files: Sequence[OpenFile]) -> None:
    """Set `first` and `base` of each file: samples and bytes are numbered from file to file.

    Each file begins at a multiple of the largest page size, so that no page has bytes of two files.

    Raises
    ------
    PipelineError
        If the fields or the class names of the files differ.
    """
    page, head = max(file.beton.page_size for file in files), files[0].beton
    for before, file in pairwise(files):
        check_same_fields(file.beton.path, file.beton.fields, head.path, head.fields)
        file.first = before.first + before.beton.num_samples
        file.base = before.base + -(-before.beton.size_bytes // page) * page
    agreed_class_names([{"class_names": file.beton.class_names} for file in files])


class JoinedBeton:
    """What a `Dataset` asks of a `Beton`, for several files; see there.

    Arrays are copies, made when they are first asked for.

    Parameters
    ----------
    files : sequence of OpenFile
        After `place_side_by_side`.
    """

    data = None
    allocations = None

    def __init__(self, files: Sequence[OpenFile]) -> None:
        self._files = files
        self.num_samples = sum(file.beton.num_samples for file in files)
        self.page_size = max(file.beton.page_size for file in files)
        self.class_names = next((names for file in files if (names := file.beton.class_names)), None)
        self._columns: dict[str, npt.NDArray[Any]] = {}

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return the records of one field, (num_samples,); pointers in them are those of the files."""
        if name not in self._columns:
            self._columns[name] = self._join(lambda file: file.beton.column(name))
        return self._columns[name]

    def offsets(self, name: str, pointer: str | None = None) -> IntArray:
        """Return where each payload begins, int64 (num_samples,), counted from file to file."""
        joined: IntArray = self._join(lambda file: file.beton.offsets(name, pointer) + file.base)
        return joined

    def lengths(self, name: str, pointer: str | None = None) -> IntArray:
        """Return the bytes of each payload, int64 (num_samples,)."""
        joined: IntArray = self._join(lambda file: file.beton.lengths(name, pointer))
        return joined

    def checksums(self, name: str, pointer: str | None = None) -> npt.NDArray[Any] | None:
        """Return the CRC32C of each payload, and -1 for those of files without checksums; None if none has.

        uint32 if all files have checksums, else int64.
        """

        def sums(file: OpenFile) -> npt.NDArray[Any]:
            own = file.beton.checksums(name, pointer)
            return np.full(file.beton.num_samples, NO_CHECKSUM) if own is None else own

        joined: npt.NDArray[Any] = self._join(sums)
        return joined if (joined >= 0).any() else None

    def facts(self, name: str) -> npt.NDArray[Any] | None:
        """Return the facts about each image; None unless all files have them."""
        if any(file.beton.facts(name) is None for file in self._files):
            return None
        joined: npt.NDArray[Any] = self._join(lambda file: file.beton.facts(name))
        return joined

    @property
    def source_ids(self) -> list[str] | None:
        """Where each sample came from, "" if its file does not say; None if no file does."""
        if all(file.beton.source_ids is None for file in self._files):
            return None
        return [
            text for file in self._files for text in file.beton.source_ids or [""] * file.beton.num_samples
        ]

    def sample_pages(self) -> IntArray:
        """Return the number of each sample's page, int64 (num_samples,); -1 for one without payloads."""
        pages = [file.beton.sample_pages() for file in self._files]
        counts = [int(own.max(initial=-1)) + 1 for own in pages]
        starts = np.cumsum([0, *counts[:-1]])
        found: IntArray = np.concatenate(
            [np.where(own < 0, own, own + start) for own, start in zip(pages, starts, strict=True)]
        )
        return found

    def _join(self, part: Callable[[OpenFile], Any]) -> Any:
        joined = np.concatenate([part(file) for file in self._files])
        joined.flags.writeable = False
        return joined

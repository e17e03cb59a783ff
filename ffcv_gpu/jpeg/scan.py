"""Reads the facts of many JPEGs from their bytes, for datasets that do not store them.

This is a compiled pass over the headers. `facts` does the same for one image in Python, and describes what is
wrong with a damaged one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import DecodeError
from ffcv_gpu.format import JPEG_FACTS
from ffcv_gpu.jpeg.base import ByteArray, DecodeStatus, Fault
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.limits import max_pixels
from ffcv_gpu.steps import IntArray

__all__ = ["NO_FACTS", "Headers", "Scanned", "scan_jpegs"]

NO_FACTS = (-1, 0, 0, 0, 0)
"""The `JPEG_FACTS` row of a payload that is not a JPEG, or a damaged one."""


class Scanned:
    """The contents of n JPEGs' headers; arrays of shape (n,), built on first access, owned by the caller.

    Attributes
    ----------
    facts : JPEG_FACTS
        `NO_FACTS` where `status` is not good.
    heights, widths : int64
        In pixels, as stored; 0 where `status` is not good.
    scan_offsets : int64
        Of the first entropy-coded byte; 0 where `status` is not good.
    precisions : uint8
        Bits per sample, nearly always 8; 0 where `status` is not good.
    status : int8
        `DecodeStatus`: GOOD or BAD_JPEG. Good means good headers; the scan itself is not read.
    reasons : mapping
        Index -> what is wrong with an image that is not good, and at which byte.
    """

    def __init__(self, rows: IntArray, file: Callable[[int], ByteArray]) -> None:
        """Take ownership of the rows that the kernel filled; `file` returns the bytes of an image."""
        from ffcv_gpu.kernels import jpeg_scan as kernel

        self._rows, self._kernel = rows, kernel
        large = rows[:, kernel.HEIGHT] * rows[:, kernel.WIDTH] > max_pixels()
        self._bad: list[int] = np.flatnonzero(large | (rows[:, kernel.WRONG_AT] >= 0)).tolist()
        if self._bad:
            rows[self._bad] = 0
        self.reasons: Mapping[int, str] = {i: _complaint(file(i).tobytes()) for i in self._bad}

    @cached_property
    def facts(self) -> npt.NDArray[Any]:
        found = np.empty(len(self._rows), JPEG_FACTS)
        for name in JPEG_FACTS.names or ():
            found[name] = self._rows[:, getattr(self._kernel, name.upper())]
        found[self._bad] = np.array(NO_FACTS, JPEG_FACTS)
        return found

    @cached_property
    def heights(self) -> IntArray:
        return self._rows[:, self._kernel.HEIGHT].copy()

    @cached_property
    def widths(self) -> IntArray:
        return self._rows[:, self._kernel.WIDTH].copy()

    @cached_property
    def scan_offsets(self) -> IntArray:
        return self._rows[:, self._kernel.SCAN_OFFSET].copy()

    @cached_property
    def precisions(self) -> npt.NDArray[np.uint8]:
        return self._rows[:, self._kernel.PRECISION].astype(np.uint8)

    @cached_property
    def status(self) -> npt.NDArray[np.int8]:
        found = np.zeros(len(self._rows), np.int8)
        if self._bad:
            found[self._bad] = DecodeStatus.BAD_JPEG
        return found


def scan_jpegs(stored: ByteArray, offsets: IntArray, lengths: IntArray) -> Scanned:
    """Read the headers of JPEGs in this thread, without the GIL.

    A photo of 110 kB takes half a microsecond, or one to three if its headers are in no cache. If the end
    marker is missing, the whole scan is searched for it: 140 microseconds.

    Parameters
    ----------
    stored : uint8 (bytes,), C-contiguous
        Memory that contains the images; only their own bytes are read.
    offsets, lengths : int64 (n,)
        Position of each image in `stored`, bytes.

    Raises
    ------
    ValueError
        If an image is not inside `stored`.
    """
    # Compiled code is loaded on first use: importing this module must not import numba.
    from ffcv_gpu.kernels import jpeg_scan as kernel

    offsets, lengths = (np.ascontiguousarray(array, np.int64) for array in (offsets, lengths))
    rows = np.empty((offsets.size, kernel.COLUMNS), np.int64)
    kernel.scan(_read_only(stored), offsets, lengths, rows, 0, offsets.size)
    return Scanned(rows, lambda i: stored[offsets[i] : offsets[i] + lengths[i]])


class Headers:
    """The headers of JPEGs that are each in separate memory; threads may read different files concurrently.

    This takes 0.4 microseconds more per file than `scan_jpegs`: less than copying them together.

    Parameters
    ----------
    files : sequence of uint8 (n,), C-contiguous
    """

    def __init__(self, files: Sequence[ByteArray]) -> None:
        from ffcv_gpu.kernels import jpeg_scan as kernel

        self._files, self._kernel = files, kernel
        self._lengths = np.array([file.size for file in files], np.int64)
        self._offsets = np.zeros(len(files), np.int64)
        self._rows = np.empty((len(files), kernel.COLUMNS), np.int64)
        self._most = max_pixels()

    def read(self, i: int) -> tuple[int, int]:
        """Return height and width of file `i` in pixels; zeros if its headers are damaged or too large."""
        kernel = self._kernel
        kernel.scan(_read_only(self._files[i]), self._offsets, self._lengths, self._rows, i, i + 1)
        row = self._rows[i].tolist()
        height, width = row[kernel.HEIGHT], row[kernel.WIDTH]
        return (0, 0) if row[kernel.WRONG_AT] >= 0 or height * width > self._most else (height, width)

    def fault(self, i: int) -> Fault:
        """Return what is wrong with file `i`, of which `read` returned zeros."""
        return DecodeStatus.BAD_JPEG, _complaint(self._files[i].tobytes())

    def all(self) -> Scanned:
        """Read the headers of all files, in this thread."""
        for i, file in enumerate(self._files):
            self._kernel.scan(_read_only(file), self._offsets, self._lengths, self._rows, i, i + 1)
        return Scanned(self._rows, self._files.__getitem__)


def _read_only(memory: ByteArray) -> ByteArray:
    """Return a read-only view: the kernel is compiled only for such arrays."""
    if not memory.flags.writeable:
        return memory
    view = memory.view()
    view.flags.writeable = False
    return view


def _complaint(data: bytes) -> str:
    try:
        scan_jpeg(data)
    except DecodeError as error:
        return str(error)
    # The two scanners are tested to agree; if they ever do not, say so rather than invent a reason.
    return "JPEG: the compiled header scan finds it damaged, but the one in Python does not"

"""Slots: reusable memory for the bytes of a lane, filled from a reader.

A slot belongs to one lane at a time. Its buffers only grow, so that nothing is allocated in steady state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import google_crc32c
import numpy as np
import numpy.typing as npt

from ffcv_gpu.device import CpuDevice
from ffcv_gpu.plan import Payloads
from ffcv_gpu.readers import RangeReader
from ffcv_gpu.steps import IntArray

__all__ = ["Slot", "SlotRing", "Staged", "corrupt_rows", "read_and_sum"]

ByteArray = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Staged:
    """Payloads of a lane in memory: row i is ``stored[offsets[i]:][:payloads.lengths[i]]``; read-only.

    `payloads` has their positions in the file.
    """

    stored: ByteArray
    offsets: IntArray
    payloads: Payloads


class _Growing:
    """A buffer that is replaced by a larger one when it is too small."""

    def __init__(self, allocate: Callable[[int], ByteArray]) -> None:
        self._allocate = allocate
        self._buffer = allocate(0)

    def of(self, size_bytes: int) -> ByteArray:
        """Return the buffer, at least `size_bytes` long; its old contents may be lost."""
        if self._buffer.size < size_bytes:
            # A quarter more than requested: sizes vary from lane to lane, and growing costs page faults.
            self._buffer = self._allocate(size_bytes + size_bytes // 4)
        return self._buffer


class Slot:
    """The reusable memory of one lane.

    Parameters
    ----------
    device : CpuDevice
        Owns the memory of decoded pixels.
    """

    def __init__(self, device: CpuDevice) -> None:
        self._slabs: dict[str, _Growing] = {}
        self._arenas: dict[str, _Growing] = {}
        self._scratch = _Growing(lambda size: np.empty(size, np.uint8))
        self._device = device

    def stage(self, field: str, reader: RangeReader, payloads: Payloads) -> Staged:
        """Load payloads into memory, without a copy if the reader already holds them.

        Raises
        ------
        ReadError
            If bytes cannot be read.
        """
        found = reader.locate(payloads.offsets, payloads.lengths)
        if found is not None:
            return Staged(*found, payloads)
        slab = self._slabs.setdefault(field, _Growing(lambda size: np.empty(size, np.uint8)))
        total = int(payloads.lengths.sum())
        buffer = slab.of(total)
        reader.read_into(payloads.offsets, payloads.lengths, buffer[:total])
        stored = buffer.view()
        stored.flags.writeable = False
        return Staged(stored, np.cumsum(payloads.lengths) - payloads.lengths, payloads)

    def arena(self, name: str, size_bytes: int) -> ByteArray:
        """Return the slot's memory of the device called `name`, uint8, at least `size_bytes` long."""
        return self._arenas.setdefault(name, _Growing(self._device.scratch)).of(size_bytes)

    def scratch(self, floats: int) -> npt.NDArray[np.float32]:
        """Return float32 (at least `floats`,) for a kernel's intermediate rows."""
        buffer = self._scratch.of(4 * floats)
        return buffer[: buffer.size // 4 * 4].view(np.float32)


class SlotRing:
    """The slots of a loader: as many as lanes ever ran concurrently."""

    def __init__(self, device: CpuDevice) -> None:
        self._device = device
        self._free: list[Slot] = []
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self) -> Iterator[Slot]:
        """Lend a slot for the duration of a with block."""
        with self._lock:
            slot = self._free.pop() if self._free else Slot(self._device)
        try:
            yield slot
        finally:
            with self._lock:
                self._free.append(slot)


def read_and_sum(reader: RangeReader, payloads: Payloads, out: ByteArray) -> Sums | None:
    """Read payloads one after another into `out`; return their CRC32C, if it is wanted and costs little.

    That is if the reader holds the bytes in memory: then each is summed when it is copied.

    Raises
    ------
    ReadError
        If bytes cannot be read.
    """
    from ffcv_gpu.kernels import crc32c_cpu

    summing = payloads.checksums is not None and crc32c_cpu.USABLE
    found = reader.locate(payloads.offsets, payloads.lengths) if summing else None
    if found is None:
        reader.read_into(payloads.offsets, payloads.lengths, out)
        return None
    sums: Sums = crc32c_cpu.copy_and_sum(*found, payloads.lengths, out)
    return sums


def corrupt_rows(staged: Staged, sums: Sums | None = None) -> list[int]:
    """Return the rows whose bytes do not match their CRC32C, if they have one; `sums`: those of the bytes.

    Takes 4 microseconds for 110 kB (measured): cheap enough for each read, and the only check that detects a
    JPEG truncated within its scan with every decoder.
    """
    expected = staged.payloads.checksums
    if expected is None:
        return []
    from ffcv_gpu.kernels import crc32c_cpu

    if sums is None:
        sums_of = crc32c_cpu.checksums if crc32c_cpu.USABLE else checksums
        sums = sums_of(staged.stored, staged.offsets, staged.payloads.lengths)
    assert sums is not None
    rows: list[int] = np.flatnonzero((sums != expected) & (expected >= 0)).tolist()
    return rows


def checksums(stored: ByteArray, offsets: IntArray, lengths: IntArray) -> Sums:
    """Compute what `kernels.crc32c_cpu.checksums` does, if that is not usable; holds the GIL."""
    pairs = zip(offsets.tolist(), (offsets + lengths).tolist(), strict=True)
    return np.array([google_crc32c.value(stored[start:end]) for start, end in pairs], np.uint32)

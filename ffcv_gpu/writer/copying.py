"""Copies a file's payloads into the new file, and compares each with its checksum on the way.

A checksum is taken of what arrived in the new file: the system's cache still holds it, and reading it back
raises on a bad sector, where a memory map would kill the process.
"""

from __future__ import annotations

import errno

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import ReadError, WriteError
from ffcv_gpu.format import crc32c
from ffcv_gpu.writer.moving import Moves
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.whole import Contents

__all__ = ["copy_payloads"]

#: bytes copied before their checksums are compared: the CPU's cache should hold them
_COPY_BYTES = 1 << 20


def copy_payloads(file: Contents, moves: Moves, output: OutputFile) -> None:
    """Copy a file's payloads to where `moves` puts them.

    Raises
    ------
    ReadError
        If bytes cannot be read, or a payload does not match its checksum; names the first such sample.
    WriteError
        If the new file cannot be written.
    """
    check = _Check(file, moves, output)
    for run in moves.runs:
        for start in range(run.start, run.stop, _COPY_BYTES):
            stop = min(start + _COPY_BYTES, run.stop)
            offset = run.offset + start - run.start
            _copy(file, start, stop, output, offset)
            check.between(offset, offset + stop - start)


def _copy(file: Contents, start: int, stop: int, output: OutputFile, offset: int) -> None:
    """Copy bytes `start` to `stop` of `file` to byte `offset` of the new file."""
    try:
        output.write(file.data[start - file.begin : stop - file.begin], offset)
    except WriteError as error:
        # The system reads the mapped file during the write: a failure is EFAULT here, not SIGBUS.
        if error.errno != errno.EFAULT:
            raise
        raise ReadError(
            errno.EIO,
            f"{file.path}: cannot read bytes {start} to {stop}: a bad sector, or the file was truncated"
            " during the copy; nothing was written",
        ) from error


class _Check:
    """Compares payloads in the new file with the checksums in the file from which they were copied."""

    def __init__(self, file: Contents, moves: Moves, output: OutputFile) -> None:
        self._file, self._output = file, output
        table = file.table
        starts = (table["ptr"] + moves.by_row[table["sample_id"]]).astype(np.int64)
        stored = np.flatnonzero(table["size"])
        #: rows of the table, in the order of their payloads in the new file
        self._rows = stored[np.argsort(starts[stored], kind="stable")]
        self._starts = starts[self._rows]
        self._ends = self._starts + table["size"][self._rows].astype(np.int64)
        self._memory = np.empty(0, np.uint8)

    def between(self, begin: int, end: int) -> None:
        """Check the payloads that end in bytes `begin` to `end` of the new file: all of each was copied."""
        first, last = np.searchsorted(self._ends, [begin, end], "right").tolist()
        if first == last:
            return
        at = int(self._starts[first])
        found = self._read(at, int(self._ends[last - 1]))
        places = zip(
            (self._starts[first:last] - at).tolist(), (self._ends[first:last] - at).tolist(), strict=True
        )
        sums = np.array([crc32c(found[start:stop]) for start, stop in places], np.uint32)
        rows = self._rows[first:last]
        bad = np.flatnonzero(sums != self._file.crcs[rows])
        if len(bad):
            self._refuse(int(rows[bad[0]]), int(sums[bad[0]]))

    def _read(self, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """Return bytes `begin` to `end` of the new file, in memory that the next call uses again."""
        if end - begin > len(self._memory):
            self._memory = np.empty(end - begin, np.uint8)
        found = self._memory[: end - begin]
        self._output.read_into(found, begin)
        return found

    def _refuse(self, row: int, found: int) -> None:
        path, entry = self._file.path, self._file.table[row]
        sample, offset = int(entry["sample_id"]), int(entry["ptr"])
        error = ReadError(
            f"{path}: sample {sample}, {entry['size']} bytes at byte {offset}: CRC32C is {found:08x}, not"
            f" {self._file.crcs[row]:08x}: the file was damaged after it was written, and nothing was written"
            f" now; restore it from a copy, or write it again; `ffcv-gpu verify {path}` lists all damaged"
            f" samples, and `ffcv-gpu write {path} NEW --on-error skip` leaves them out"
        )
        error.sample, error.offset = sample, offset
        raise error

"""The journal beside the file: what a conversion has written so far, so that it can resume.

The journal holds every part without its payloads, which are already in the file. Parts and payloads
are trusted only if their CRC32C matches, so neither needs to be flushed while writing, and whatever a kill or
a power cut has lost is encoded again. Its bytes::

    magic 8 bytes, then records: CRC32C u32 | length u32 | payload
    record 0         JSON: which conversion this is
    record 1, 2 ...  u32 length of JSON head | JSON head | the part's arrays, their lengths in the head
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import IO, Any, Final

import numpy as np

from ffcv_gpu.errors import WriteError
from ffcv_gpu.format import Skipped, crc32c
from ffcv_gpu.writer.builder import BetonBuilder
from ffcv_gpu.writer.forking import close_in_children
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.parts import Job, Part
from ffcv_gpu.writer.report import Tally

__all__ = ["Journal", "conversion_noted"]

MAGIC: Final = b"ffcvjrn1"
HEAD = struct.Struct("<II")
NUMBER = struct.Struct("<I")


class Journal:
    """The journal at `path`: read from the start, then appended to. A context manager.

    Parameters
    ----------
    path : str
    conversion : mapping
        What the file depends on, JSON-compatible.
    is_void : bool, keyword only
        Discard an existing journal: its file is gone.

    Raises
    ------
    WriteError
        If the journal is from another conversion, or the system reports an error.
    """

    def __init__(self, path: str, conversion: Mapping[str, Any], *, is_void: bool = False) -> None:
        self.path = path
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", 0)
        except OSError as error:
            raise WriteError(error.errno, f"cannot write the journal {path}: {error.strerror}") from error
        close_in_children(self._file)
        try:
            if is_void:
                self._file.truncate(0)
            self._begin(json.loads(json.dumps(conversion)))
        except BaseException:
            self._file.close()
            raise

    def _begin(self, conversion: Mapping[str, Any]) -> None:
        known = _next_record(self._file) if self._file.read(len(MAGIC)) == MAGIC else None
        if known is None:  # new, or interrupted before anything was recorded
            self._file.seek(0)
            self._write(MAGIC + _record(json.dumps(conversion).encode()))
            self._file.truncate()
            return
        before = json.loads(known)
        differ = [name for name in {**before, **conversion} if before.get(name) != conversion.get(name)]
        if differ:
            raise WriteError(
                f"{self.path} is from another conversion (different {', '.join(sorted(differ))}): give the"
                " same arguments to resume that one, or remove the journal to start over"
            )

    def parts(self) -> Generator[Part, None, None]:
        """Yield the recorded parts in order, up to the first that is damaged or truncated.

        Where the caller stops, the rest is discarded, and `append` continues there.
        """
        end = self._file.tell()
        try:
            while (payload := _next_record(self._file)) is not None:
                yield _unpack(payload)
                # Not reached for the part at which the caller stops.
                end = self._file.tell()
        finally:
            self._file.seek(end)
            self._file.truncate()

    def go_on(self, job: Job, builder: BetonBuilder, output: OutputFile) -> int:
        """Take over what an earlier run wrote; return the position of the first sample to encode."""
        memory = np.empty(job.slot_bytes, np.uint8)
        position = job.span.start
        with contextlib.closing(self.parts()) as parts:
            for part in parts:
                if not builder.add_again(part, memory):
                    break
                position = part.stop
        # The rest is incomplete: pages must end in zeros. The file is never empty from now on, see `is_new`.
        output.truncate(builder.end)
        return position

    def append(self, part: Part) -> None:
        """Record a part whose payloads have been written."""
        self._write(_record(_pack(part)))

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise WriteError(
                error.errno,
                f"cannot write the journal {self.path}: {error.strerror}; it is kept, for the run to resume",
            ) from error


def conversion_noted(path: str) -> dict[str, Any]:
    """Return the conversion recorded in the journal at `path`; empty if there is no readable one."""
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return {}
            payload = _next_record(file)
    except OSError:
        return {}  # `Journal` reports what is wrong when it opens the file
    found: dict[str, Any] = {} if payload is None else json.loads(payload)
    return found


def _next_record(file: IO[bytes]) -> bytes | None:
    head = file.read(HEAD.size) or b""
    if len(head) < HEAD.size:
        return None
    crc, length = HEAD.unpack(head)
    if length > os.fstat(file.fileno()).st_size:
        return None
    payload = file.read(length) or b""
    return payload if len(payload) == length and crc32c(payload) == crc else None


def _record(payload: bytes) -> bytes:
    return HEAD.pack(crc32c(payload), len(payload)) + payload


def _pack(part: Part) -> bytes:
    arrays = [part.bounds, part.records, part.entries, *part.facts.values()]
    head = json.dumps(
        {
            "range": [part.start, part.stop, part.count],
            "lengths": [len(array) for array in arrays],
            "facts": list(part.facts),
            "tally": part.tally.as_json(),
            "skipped": part.skipped,
        }
    ).encode()
    return NUMBER.pack(len(head)) + head + b"".join(arrays)


def _unpack(payload: bytes) -> Part:
    at = NUMBER.size + NUMBER.unpack_from(payload)[0]
    head = json.loads(payload[NUMBER.size : at])
    arrays = []
    for length in head["lengths"]:
        arrays.append(payload[at : at + length])
        at += length
    bounds, records, entries, *facts = arrays
    start, stop, count = head["range"]
    tally, skipped = Tally.from_json(head["tally"]), tuple(Skipped(*row) for row in head["skipped"])
    named = dict(zip(head["facts"], facts, strict=True))
    return Part(start, stop, count, 0, bounds, records, entries, named, tally, skipped)

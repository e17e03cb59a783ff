"""What is fuzzed: any bytes are refused in our own words or read within their bounds, and nothing else.

``check_format`` takes a ``.beton`` file with its zeros left out (the smallest one with a page has 4 MiB)::

    mode u8, then pieces: offset u32 | length u16 | bytes

Bit 0 of the mode replaces CRC32C by a function that is always 0. Else hardly any input would get behind the
section's checksums, and what is there would never be tried.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator

import numpy as np

from ffcv_gpu.errors import DecodeError, FormatError
from ffcv_gpu.fields import NDArrayField, own_class
from ffcv_gpu.format import TypeId, crc32c, faults, open_beton, section, structure_notes, verify_structure
from ffcv_gpu.format.index import read_descriptors
from ffcv_gpu.jpeg.facts import exif_orientation, scan_jpeg
from ffcv_gpu.jpeg.scan import scan_jpegs

PIECE = struct.Struct("<IH")
MAX_BYTES = (4 << 20) + (1 << 16)
RECORDS = {"own": np.dtype([("where", "<u8"), ("more", "u1")])}


# ---- .beton files


def pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of an input."""
    at = 1
    while at + PIECE.size <= len(data):
        offset, length = PIECE.unpack_from(data, at)
        at += PIECE.size
        if offset + length <= MAX_BYTES:
            yield offset, data[at : at + length]
        at += length


def without_zeros(content: bytes, mode: int) -> bytes:
    """Return the input that stands for a file."""
    found, at = [bytes([mode])], 0
    while at < len(content):
        if content[at] == 0:
            at += 1
            continue
        end = at
        while end < min(len(content), at + 60_000) and content[end : end + 64].strip(b"\0"):
            end += 1
        found.append(PIECE.pack(at, end - at) + content[at:end])
        at = end
    if not content.endswith(b"\0"):
        return b"".join(found)
    return b"".join([*found, PIECE.pack(len(content) - 1, 1), b"\0"])


def no_sum(data: object, crc: int = 0) -> int:
    """Stand in for CRC32C."""
    return 0


def check_format(data: bytes) -> str:
    """Open the file that an input stands for and ask it everything; return what became of it."""
    sums = no_sum if data[:1] and data[0] & 1 else crc32c
    section.crc32c = faults.crc32c = sums
    fd = os.memfd_create("beton")
    try:
        for offset, piece in pieces(data):
            os.pwrite(fd, piece, offset)
        return _ask_everything(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
        section.crc32c = faults.crc32c = crc32c


def _ask_everything(path: str) -> str:
    try:
        read_descriptors(path)
        beton = open_beton(path, RECORDS)
    except FormatError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert path in said
        return "refused"
    outcome = "opened"
    for field in beton.fields:
        pointer = "where" if beton.column(field.name).dtype == RECORDS["own"] else None
        try:
            if field.type_id in (TypeId.NDARRAY, TypeId.TENSOR):
                NDArrayField.from_binary(np.frombuffer(field.arguments, np.uint8))
            if (own := own_class(field.arguments)) is not None:
                own.from_binary(np.frombuffer(field.arguments, np.uint8))
            offsets, lengths = beton.offsets(field.name, pointer), beton.lengths(field.name, pointer)
            beton.checksums(field.name, pointer)
        except FormatError:
            outcome = "a field refused"
            continue
        inside = (offsets >= beton.layout.data_offset) & (offsets + lengths <= beton.data_end)
        assert np.all(inside | (lengths == 0))
        facts = beton.facts(field.name)
        assert facts is None or len(facts) == beton.num_samples
    assert len(beton.sample_pages()) == beton.num_samples
    verify_structure(beton, {"own": ("where",)})
    structure_notes(beton)
    assert beton.class_names is None or all(isinstance(name, str) for name in beton.class_names)
    try:
        assert beton.source_ids is None or len(list(beton.source_ids)) == beton.num_samples
    except FormatError:
        outcome = "a source id refused"
    return outcome


# ---- headers of JPEGs


class Guarded:
    """Memory whose last byte is followed by a page that nobody may read: a byte too many ends the process."""

    def __init__(self, size_bytes: int) -> None:
        page = mmap.PAGESIZE
        self.size = -(-size_bytes // page) * page
        self._map = mmap.mmap(-1, self.size + page)
        self.bytes = np.frombuffer(self._map, np.uint8)
        start = self.bytes.ctypes.data
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(start + self.size), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, data: bytes) -> np.ndarray:
        """Return a copy of the data that ends where the memory ends."""
        out = self.bytes[self.size - len(data) : self.size]
        out[:] = np.frombuffer(data, np.uint8)
        return out


GUARDED = Guarded(1 << 20)


def check_jpeg(data: bytes) -> str:
    """Read the headers with both scanners, which must agree to the byte; return what became of them."""
    data = data[: GUARDED.size]
    exif_orientation(data)
    scanned = scan_jpegs(GUARDED.put(data), np.zeros(1, np.int64), np.array([len(data)]))
    try:
        header = scan_jpeg(data)
    except DecodeError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert scanned.status[0] != 0 and scanned.reasons[0] == said
        return "refused"
    assert scanned.status[0] == 0 and not scanned.reasons
    row = (scanned.heights[0], scanned.widths[0], scanned.precisions[0])
    assert row == (header.height, header.width, header.precision)
    for name in scanned.facts.dtype.names:
        assert scanned.facts[name][0] == getattr(header, name), name
    assert 0 < header.scan_offset <= header.end_offset <= len(data)
    return "read"


TARGETS = {"format": check_format, "jpeg": check_jpeg}

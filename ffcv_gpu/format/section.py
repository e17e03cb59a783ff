"""The integrity section, version 1: checksums and per-image facts between the last page and the table.

FFCV finds the table by ``alloc_table_ptr`` and ignores whatever lies before it; nothing may follow the
table, because FFCV reads all bytes from there to the end of the file as entries. The section therefore *ends*
exactly where the table begins::

    chunk, chunk, ...      tag 4 bytes | CRC32C u32 | length u64 | payload, zero-padded to 8 bytes
    footer, 32 bytes       chunk bytes u64 | directory CRC u32 | chunks u32 | algorithm u16 | version u16
                           | CRC of the footer's first 20 bytes u32 | magic 8 bytes

The directory CRC covers the 16-byte heads of all chunks, which hold the CRCs of their payloads: one chain
from the footer down. A chunk with an unknown tag is skipped. Chunks of version 1:

    SUMS   u32 x 4: CRC32C of header (as finally written), descriptors, metadata, table; u64 table entries
    PCRC   u32 per table entry, in table order: CRC32C of the entry's payload
    FACT   u32 field number | u32 bytes per row | u64 rows | JPEG_FACTS rows; one chunk per image field
    SRCS   u64 rows | u64 x (rows + 1): start of each id in the text | UTF-8 text: source ids
    INFO   UTF-8 JSON object: what wrote the file and how, class names, skipped samples

README.md beside this file lists the members of INFO and says how the section may be extended.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format.layout import FieldDescriptor, align_up
from ffcv_gpu.format.notes import Skipped, SourceIds, check_info, unpack_source_ids
from ffcv_gpu.format.records import JPEG_FACTS

__all__ = ["FOOTER_BYTES", "Section", "crc32c", "parse_section"]

_log = logging.getLogger(__name__)

MAGIC: Final = b"ffcv-gpu"
VERSION: Final = 1
ALGORITHM: Final = 1
FOOTER = struct.Struct("<QIIHHI8s")
FOOTER_SUMMED_BYTES: Final = 20
CHUNK_HEAD = struct.Struct("<4sIQ")
SUMS = struct.Struct("<IIIIQ")
FACT = struct.Struct("<IIQ")
FOOTER_BYTES: Final = FOOTER.size

_Bytes: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[Any]


def crc32c(data: _Bytes, crc: int = 0) -> int:
    """Return CRC32C (Castagnoli) of C-contiguous ``data``, continued from ``crc``; about 20 GB/s per core.

    No copy is made: the library accepts numpy arrays, but neither memoryviews nor bytearrays.
    """
    flat = data if isinstance(data, (bytes, np.ndarray)) else np.frombuffer(data, np.uint8)
    return int(google_crc32c.extend(crc, flat))


@dataclass(frozen=True, eq=False)
class Section:
    """A file's integrity section, read and found self-consistent.

    Attributes
    ----------
    offset, size_bytes
        its place in the file, footer included; ``offset + size_bytes`` is where the table begins
    header_crc, descriptors_crc, metadata_crc, table_crc
        CRC32C of those parts of the file
    num_entries
        entries of the allocation table
    payload_crcs
        uint32 (num_entries,), CRC32C of each entry's payload in table order; read-only, file-backed.
        None if the file has none
    facts
        by field name: `JPEG_FACTS` (num_samples,), read-only, file-backed
    info
        the object in INFO, such as the writer's settings
    class_names
        name of each class, None if the file has none
    source_ids
        one str per sample, file-backed; None if the file has none
    skipped
        samples that the writer left out
    """

    offset: int
    size_bytes: int
    header_crc: int
    descriptors_crc: int
    metadata_crc: int
    table_crc: int
    num_entries: int
    payload_crcs: npt.NDArray[np.uint32] | None = None
    facts: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    source_ids: SourceIds | None = None
    skipped: tuple[Skipped, ...] = ()


def parse_section(
    data: npt.NDArray[np.uint8],
    *,
    start: int,
    end: int,
    descriptors: tuple[FieldDescriptor, ...],
    num_samples: int,
) -> Section | None:
    """Return the section that ends at byte ``end`` of ``data``; None if there is none of a known version.

    Parameters
    ----------
    data
        uint8 (file size,), the whole file; the section's arrays are views of it
    start
        no section begins before this byte (the end of the metadata)
    end
        ``alloc_table_ptr``
    descriptors, num_samples
        of the same file, to name the image facts and to check their number

    Raises
    ------
    FormatError
        if it is damaged: a checksum, length or count does not match
    """
    if end - start < FOOTER_BYTES:
        return None
    raw = data[end - FOOTER_BYTES : end].tobytes()
    length, directory_crc, num_chunks, algorithm, version, footer_crc, magic = FOOTER.unpack(raw)
    intact = crc32c(raw[:FOOTER_SUMMED_BYTES]) == footer_crc
    if not intact and magic != MAGIC:
        return None
    # Only one of the two: our footer, but damaged; so a flipped bit cannot turn the checks off. The zeros at
    # the end of a page have neither: CRC32C of 20 zero bytes is not 0.
    if not intact or magic != MAGIC:
        _damaged(end - FOOTER_BYTES, "the checksum of its footer does not match")
    if version != VERSION or algorithm != ALGORITHM:
        _log.warning(
            "integrity section skipped: its version %d, algorithm %d, is unknown here", version, algorithm
        )
        return None
    offset = end - FOOTER_BYTES - length
    if offset < start:
        _damaged(end - FOOTER_BYTES, f"its length, {length} bytes, exceeds the file")
    chunks = _split(data[offset : end - FOOTER_BYTES], offset, num_chunks, directory_crc)
    return _interpret(chunks, offset, end - offset, descriptors, num_samples)


def _split(
    body: npt.NDArray[np.uint8], offset: int, num_chunks: int, directory_crc: int
) -> list[tuple[bytes, npt.NDArray[np.uint8]]]:
    """Return the chunks of the section's body, each checked against its CRC."""
    chunks, at, heads = [], 0, 0
    while at < len(body):
        if len(body) - at < CHUNK_HEAD.size:
            _damaged(offset + at, "the head of a chunk is truncated")
        head = body[at : at + CHUNK_HEAD.size].tobytes()
        tag, crc, size = CHUNK_HEAD.unpack(head)
        heads = crc32c(head, heads)
        at += CHUNK_HEAD.size
        if size > len(body) - at:
            _damaged(offset + at, f"the length of chunk {tag!r}, {size} bytes, exceeds the section")
        payload = body[at : at + size]
        if crc32c(payload) != crc:
            _damaged(offset + at, f"chunk {tag!r} does not match its checksum")
        chunks.append((tag, payload))
        if body[at + size : at + align_up(size, 8)].any():
            _damaged(offset + at, f"chunk {tag!r} is not padded with zeros")
        at += align_up(size, 8)
    if len(chunks) != num_chunks or heads != directory_crc:
        _damaged(offset, "its chunks do not match its footer")
    return chunks


def _interpret(
    chunks: list[tuple[bytes, npt.NDArray[np.uint8]]],
    offset: int,
    size_bytes: int,
    descriptors: tuple[FieldDescriptor, ...],
    num_samples: int,
) -> Section:
    by_tag = {tag: payload for tag, payload in chunks if tag != b"FACT"}
    sums = by_tag.get(b"SUMS")
    if sums is None or len(sums) < SUMS.size:
        _damaged(offset, "it has no complete SUMS chunk")
    header, descs, metadata, table, entries = SUMS.unpack(sums[: SUMS.size].tobytes())
    crcs = by_tag.get(b"PCRC")
    if crcs is not None and len(crcs) != 4 * entries:
        _damaged(offset, f"{len(crcs) // 4} payload checksums for {entries} table entries")
    facts = dict(
        _facts(payload, offset, descriptors, num_samples) for tag, payload in chunks if tag == b"FACT"
    )
    info, sources = _info(by_tag.get(b"INFO"), offset), by_tag.get(b"SRCS")
    try:
        check_info(info)
        source_ids = None if sources is None else unpack_source_ids(sources, num_samples)
    except ValueError as error:
        _damaged(offset, str(error))
    return Section(
        offset=offset,
        size_bytes=size_bytes,
        header_crc=header,
        descriptors_crc=descs,
        metadata_crc=metadata,
        table_crc=table,
        num_entries=entries,
        payload_crcs=None if crcs is None else crcs.view("<u4"),
        facts=facts,
        info=info,
        class_names=tuple(info["class_names"]) if "class_names" in info else None,
        source_ids=source_ids,
        skipped=tuple(Skipped(*row) for row in info.get("skipped", [])),
    )


def _facts(
    payload: npt.NDArray[np.uint8], offset: int, descriptors: tuple[FieldDescriptor, ...], num_samples: int
) -> tuple[str, npt.NDArray[Any]]:
    if len(payload) < FACT.size:
        _damaged(offset, "image facts are truncated")
    number, row_bytes, rows = FACT.unpack(payload[: FACT.size].tobytes())
    fits = row_bytes == JPEG_FACTS.itemsize and rows == num_samples
    if not fits or number >= len(descriptors) or len(payload) != FACT.size + row_bytes * rows:
        _damaged(offset, f"image facts of {rows} rows for field {number} do not match the file")
    return descriptors[number].name, payload[FACT.size :].view(JPEG_FACTS)


def _info(payload: npt.NDArray[np.uint8] | None, offset: int) -> dict[str, Any]:
    if payload is None:
        return {}
    try:
        info = json.loads(payload.tobytes())
    except (ValueError, RecursionError) as error:
        _damaged(offset, f"its INFO is not JSON ({error})")
    if not isinstance(info, dict):
        _damaged(offset, "its INFO is not a JSON object")
    return info


def _damaged(offset: int, why: str) -> NoReturn:
    raise FormatError(
        f"integrity section, byte {offset}: {why}; the file is damaged, write or fetch it again"
    )

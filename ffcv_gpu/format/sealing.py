"""Builds the integrity section, which ``section`` describes and reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format.layout import ALLOC_TABLE_TYPE, align_up, unpack_descriptors
from ffcv_gpu.format.records import JPEG_FACTS
from ffcv_gpu.format.section import (
    ALGORITHM,
    CHUNK_HEAD,
    FACT,
    FOOTER,
    FOOTER_BYTES,
    FOOTER_SUMMED_BYTES,
    MAGIC,
    SUMS,
    VERSION,
    crc32c,
)

__all__ = ["build_section", "section_size"]


def section_size(
    *,
    num_entries: int,
    num_samples: int,
    num_facts: int,
    info: Mapping[str, Any],
    sources: bytes | None = None,
) -> int:
    """Size in bytes of the section that `build_section` will return; a multiple of 8.

    The header's CRC covers the final ``alloc_table_ptr``, so the size must be known before the section
    is built: ``alloc_table_ptr = align_up(end of pages or metadata, 8) + section_size(...)``.
    """
    facts = FACT.size + num_samples * JPEG_FACTS.itemsize
    payloads = [SUMS.size, 4 * num_entries, *[facts] * num_facts, len(_info_bytes(info))]
    payloads += [] if sources is None else [len(sources)]
    return sum(CHUNK_HEAD.size + align_up(size, 8) for size in payloads) + FOOTER_BYTES


def build_section(
    *,
    header: bytes,
    descriptors: bytes,
    metadata: npt.NDArray[Any],
    allocations: npt.NDArray[Any],
    payload_crcs: npt.NDArray[np.uint32],
    facts: Mapping[str, npt.NDArray[Any]],
    info: Mapping[str, Any],
    sources: bytes | None = None,
) -> bytes:
    """The section's bytes, to be written so that they end at the header's ``alloc_table_ptr``.

    Parameters
    ----------
    header, descriptors
        exactly as written, with the final ``alloc_table_ptr``
    metadata
        (num_samples,) records, C-contiguous, the very array that is written: the checksum also covers the
        padding between its members
    allocations
        (entries,) `ALLOC_TABLE_TYPE`, in the order written
    payload_crcs
        (entries,) uint32, `crc32c` of each entry's payload
    facts
        by field name: (num_samples,) `JPEG_FACTS`
    info
        anything that JSON can represent
    sources
        from `notes.pack_source_ids`, if the samples have source ids

    Raises
    ------
    FormatError
        if the lengths of these arrays do not agree
    ValueError
        for NaN or infinity in `info`
    """
    if len(payload_crcs) != len(allocations):
        raise FormatError(f"{len(payload_crcs)} payload checksums for {len(allocations)} table entries")
    # Never copy the metadata: numpy does not copy the padding between a struct's members.
    table = np.ascontiguousarray(allocations, ALLOC_TABLE_TYPE)
    sums = (crc32c(part) for part in (header, descriptors, metadata, table))
    chunks = [(b"SUMS", SUMS.pack(*sums, len(table))), (b"PCRC", payload_crcs.astype("<u4").tobytes())]
    names = [item.name for item in unpack_descriptors(descriptors)]
    for name, rows in facts.items():
        if rows.shape != metadata.shape:
            raise FormatError(f"field {name!r}: facts of shape {rows.shape} for {len(metadata)} samples")
        head = FACT.pack(names.index(name), JPEG_FACTS.itemsize, len(rows))
        chunks.append((b"FACT", head + rows.astype(JPEG_FACTS).tobytes()))
    if sources is not None:
        chunks.append((b"SRCS", sources))
    chunks.append((b"INFO", _info_bytes(info)))
    return _join(chunks)


def _join(chunks: list[tuple[bytes, bytes]]) -> bytes:
    heads = [CHUNK_HEAD.pack(tag, crc32c(payload), len(payload)) for tag, payload in chunks]
    parts = [
        head + payload + bytes(-len(payload) % 8) for head, (_, payload) in zip(heads, chunks, strict=True)
    ]
    body = b"".join(parts)
    facts = (len(body), crc32c(b"".join(heads)), len(chunks), ALGORITHM, VERSION)
    unsummed = FOOTER.pack(*facts, 0, MAGIC)
    return body + FOOTER.pack(*facts, crc32c(unsummed[:FOOTER_SUMMED_BYTES]), MAGIC)


def _info_bytes(info: Mapping[str, Any]) -> bytes:
    # Sorted, so that equal settings give equal bytes in whatever order they were collected.
    return json.dumps(dict(info), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")

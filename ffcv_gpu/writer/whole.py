"""A file to be copied into another one: its pages, and where its records hold pointers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.stored import StoredFields, readable
from ffcv_gpu.errors import FormatError, PipelineError, WriteError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import (
    RECORD_DTYPES,
    Beton,
    FieldDescriptor,
    ImageMode,
    TypeId,
    align_up,
    crc32c,
    no_facts,
    read_descriptors,
    verify_structure,
)
from ffcv_gpu.jpeg.facts import facts_in

__all__ = [
    "Contents",
    "Noted",
    "WholeFile",
    "open_whole",
    "pointer_places",
    "read_noted",
]

_POINTERS: Mapping[int, tuple[str, ...]] = {
    TypeId.RGB_IMAGE: ("data_ptr",), TypeId.BYTES: ("ptr",), TypeId.JSON: ("ptr",), TypeId.NDARRAY: ("",),
    TypeId.TENSOR: ("",), TypeId.INT: (), TypeId.FLOAT: (),
}  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """What of a file is copied into another one, without decoding: pages, records and pointers.

    Attributes
    ----------
    path : str
    data : uint8
        The pages.
    begin, end : int
        File offset of the first page and end of the last one with a payload; multiples of the page size.
    metadata : records of the file
    places : sequence of int
        Byte offsets in a record at which pointers may be stored.
    marked : for each place, bool (num_samples,)
        Which records have a pointer there.
    table, crcs, facts
        As in the file; facts by field number.
    """

    path: str
    data: npt.NDArray[np.uint8]
    begin: int
    end: int
    metadata: npt.NDArray[Any]
    places: Sequence[int]
    marked: Sequence[npt.NDArray[np.bool_]]
    table: npt.NDArray[Any]
    crcs: npt.NDArray[np.uint32]
    facts: Mapping[int, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Noted:
    """What a file, or a part of one, records about itself."""

    info: Mapping[str, Any]
    samples: int
    source_ids: Sequence[str] | None

    @property
    def positions(self) -> int:
        """Number of samples that were to be written: the stored and the skipped ones."""
        return self.samples + len(self.info.get("skipped", []))

    @property
    def fields(self) -> Mapping[str, Any]:
        """Class and settings of each field, as recorded by the last writer."""
        parts = self.info.get("parts") or [self.info]
        return self.info.get("fields") or parts[-1].get("fields") or {}


@dataclass(frozen=True)
class WholeFile:
    """A file that is to be copied into another one."""

    beton: Beton
    contents: Contents
    noted: Noted
    #: device, inode and size when the file was opened
    identity: tuple[int, ...]

    @property
    def fingerprint(self) -> list[int]:
        """Numbers that tell this file from others."""
        beton = self.beton
        return [beton.size_bytes, crc32c(np.ascontiguousarray(beton.allocations)), crc32c(beton.data[:4096])]

    def check_same(self) -> None:
        """Raise `WriteError` if its path now names another file, which would be lost when replaced."""
        if not os.path.exists(self.beton.path) or _identity(self.beton.path) != self.identity:
            raise WriteError(
                f"{self.beton.path} was replaced while samples were appended to it; append again, with one"
                " process at a time"
            )


def open_whole(path: str | os.PathLike[str], fields: Mapping[str, Field]) -> WholeFile:
    """Open a file and check its structure; `fields` contains at least its custom fields.

    Raises
    ------
    FormatError
        If it is damaged.
    ReadError
        If it cannot be opened.
    """
    with readable(path):
        identity = _identity(path)
    beton = _open(path, fields)
    custom = {item.name for item in beton.fields if item.type_id == TypeId.CUSTOM}
    named = {name: fields[name].pointers for name in custom if getattr(fields[name], "pointers", ())}
    problems = verify_structure(beton, named)
    if problems:
        raise FormatError(
            f"{beton.path}: {problems[0]}; `ffcv-gpu verify` reports more; write or fetch it again"
        )
    noted = Noted(_info(beton), beton.num_samples, beton.source_ids)
    return WholeFile(beton, _contents(beton, fields), noted, identity)


def read_noted(path: str | os.PathLike[str], fields: Mapping[str, Field]) -> Noted:
    """Return what a file records about itself, without source ids; the file is not kept open."""
    beton = _open(path, fields)
    return Noted(_info(beton), beton.num_samples, None)


def _open(path: str | os.PathLike[str], fields: Mapping[str, Field]) -> Beton:
    with readable(path):
        custom = [item.name for item in read_descriptors(path) if item.type_id == TypeId.CUSTOM]
    given = {name: type(fields[name]) for name in custom if name in fields}
    return StoredFields(os.fspath(path), fields, given).open()


def _info(beton: Beton) -> Mapping[str, Any]:
    return {} if beton.section is None else beton.section.info


def _identity(path: str | os.PathLike[str]) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size


def pointer_places(field: Field) -> tuple[int, ...]:
    """Return the byte offsets in a field's record at which pointers may be stored."""
    dtype = field.record_dtype
    if field.pointers:
        members: Mapping[str, Any] = dtype.fields or {}
        return tuple(int(members[name][1]) if name else 0 for name in field.pointers)
    return tuple(_words(dtype, 0)) if field.type_id == TypeId.CUSTOM else ()


def _words(dtype: np.dtype[Any], offset: int) -> Iterator[int]:
    """Yield the byte offsets of the 8-byte integers in a record."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        for k in range(int(np.prod(shape))):
            yield from _words(base, offset + k * base.itemsize)
    elif dtype.fields is not None:
        for member in dtype.names or ():
            yield from _words(dtype.fields[member][0], offset + dtype.fields[member][1])
    elif dtype in (np.dtype("<u8"), np.dtype("<i8")):
        yield offset


def _contents(beton: Beton, fields: Mapping[str, Field]) -> Contents:
    begin, end = _extent(beton)
    data = beton.data[begin : min(end, beton.data_end)]
    records = beton.metadata.view(np.uint8).reshape(beton.num_samples, beton.metadata.itemsize)
    places, marked = [], []
    for number, item in enumerate(beton.fields):
        for place in _places(beton, number, item, fields):
            stands = beton.find(records[:, place : place + 8].view("<u8")[:, 0]) >= 0
            if stands.any() and item.type_id == TypeId.CUSTOM and not fields[item.name].pointers:
                kind = type(fields[item.name]).__name__
                raise PipelineError(
                    f"{beton.path}: field {item.name!r}: {kind} must name the members of its record that are"
                    f" offsets: pointers = (...) in the class ('' is the record itself)"
                )
            places.append(place)
            marked.append(stands)
    facts = {
        number: rows for number, item in enumerate(beton.fields) if (rows := _facts(beton, item)) is not None
    }
    # Copies: they lie at the end of the file, and if it is truncated meanwhile, reading the map is fatal.
    table, crcs = beton.allocations.copy(), _checksums(beton).copy()
    return Contents(beton.path, data, begin, end, beton.metadata, places, marked, table, crcs, facts)


def _extent(beton: Beton) -> tuple[int, int]:
    """Return where the first page with a payload begins, and the last one ends; empty payloads count."""
    start, table = beton.layout.data_offset, beton.allocations
    pointers, sizes = table["ptr"], np.maximum(table["size"], 1)
    # FFCV's empty payloads may lie behind the last page; pointers to elsewhere are damaged.
    inside = (pointers >= start) & (pointers <= beton.data_end)
    if not inside.any():
        return start, start
    begin, end = int(pointers[inside].min()), int((pointers[inside] + sizes[inside]).max())
    return begin // beton.page_size * beton.page_size, align_up(end, beton.page_size)


def _places(beton: Beton, number: int, item: FieldDescriptor, fields: Mapping[str, Field]) -> list[int]:
    """Return the byte offsets in the file's record at which a field's pointers may be stored."""
    members: Mapping[str, Any] = beton.layout.dtype.fields or {}
    dtype, begin = members[f"f{number}"][:2]
    if item.type_id == TypeId.CUSTOM:
        return [begin + place for place in pointer_places(fields[item.name])]
    return [begin + (dtype.fields[name][1] if name else 0) for name in _POINTERS[item.type_id]]


def _checksums(beton: Beton) -> npt.NDArray[np.uint32]:
    if beton.section is not None and beton.section.payload_crcs is not None:
        return beton.section.payload_crcs
    places = zip(beton.allocations["ptr"].tolist(), beton.allocations["size"].tolist(), strict=True)
    return np.array([crc32c(beton.data[at : at + size]) if size else 0 for at, size in places], np.uint32)


def _facts(beton: Beton, item: FieldDescriptor) -> npt.NDArray[Any] | None:
    """Return the recorded facts of a field's images, or else those in their headers; None: no images."""
    noted = beton.facts(item.name)
    if noted is not None or beton.column(item.name).dtype != RECORD_DTYPES[TypeId.RGB_IMAGE]:
        return noted
    if item.type_id == TypeId.CUSTOM:
        return None
    facts = no_facts(beton.num_samples)
    rows = np.flatnonzero(beton.column(item.name)["mode"] == ImageMode.JPEG)
    facts[rows] = facts_in(beton.data, beton.offsets(item.name)[rows], beton.lengths(item.name)[rows])
    return facts

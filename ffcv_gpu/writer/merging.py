"""Several ``.beton`` files become one by arithmetic: pages are copied, pointers moved, nothing is decoded.

Checksums are taken over, not computed anew, so damage of an input is still noticed in the result. A file of
FFCV's own has none: it gets them here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import DecodeError, FormatError, PipelineError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import (
    JPEG_FACTS,
    RECORD_DTYPES,
    Beton,
    FieldDescriptor,
    FileLayout,
    ImageMode,
    TypeId,
    align_up,
    crc32c,
    open_beton,
    read_descriptors,
    verify_structure,
)
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.writer.arguments import writer_name
from ffcv_gpu.writer.builder import BetonBuilder, WholeFile, pointer_places
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.report import Tally, WriteReport

__all__ = ["Noted", "Whole", "check_same_fields", "join", "merge_files", "open_whole"]

_NO_FACTS = np.array((-1, 0, 0, 0, 0), JPEG_FACTS)
_POINTERS: Mapping[int, tuple[str, ...]] = {
    TypeId.RGB_IMAGE: ("data_ptr",), TypeId.BYTES: ("ptr",), TypeId.JSON: ("ptr",), TypeId.NDARRAY: ("",),
    TypeId.TENSOR: ("",), TypeId.INT: (), TypeId.FLOAT: (),
}  # fmt: skip


@dataclass(frozen=True)
class Noted:
    """What a file, or a part of one, says of itself."""

    info: Mapping[str, Any]
    samples: int
    source_ids: Sequence[str] | None


@dataclass(frozen=True)
class Whole:
    """A file that is to be copied into another one."""

    beton: Beton
    whole: WholeFile
    noted: Noted

    @property
    def fingerprint(self) -> list[int]:
        """Numbers by which another file is told from this one."""
        beton = self.beton
        return [beton.size_bytes, crc32c(np.ascontiguousarray(beton.allocations)), crc32c(beton.data[:4096])]


def merge_files(
    paths: Sequence[str | os.PathLike[str]],
    fname: str | os.PathLike[str],
    *,
    custom_fields: Mapping[str, Any] | None = None,
    fsync: bool = True,
) -> WriteReport:
    """Write the samples of several files, in this order, into one.

    Parameters
    ----------
    paths : sequence of str or os.PathLike
        Files of ours or of FFCV's, with the same fields. One of them may be `fname` itself.
    fname : str or os.PathLike
        As `DatasetWriter` takes it: appears when it is whole.
    custom_fields : mapping of str to Field class, keyword only
        For fields of type 255. The class names in ``pointers`` which members of its record are offsets.
    fsync : bool, keyword only
        As `DatasetWriter` takes it.

    Raises
    ------
    FormatError
        If one of the files cannot be trusted: `ffcv-gpu verify` says more.
    PipelineError
        If their fields or their class names are not the same.
    WriteError
        If the file cannot be written.
    """
    began = time.perf_counter()
    if not paths:
        raise PipelineError("nothing to merge: give the files")
    files = [open_whole(path, _made(path, custom_fields or {})) for path in paths]
    first = files[0].beton
    for file in files[1:]:
        check_same_fields(file.beton, first.path, first.fields)
    tally = Tally()
    info, sources = join([file.noted for file in files], tally)
    layout = FileLayout(
        max(file.beton.page_size for file in files),
        sum(file.beton.num_samples for file in files),
        first.fields,
        first.layout.dtype,
    )
    target = os.fspath(fname)
    with OutputFile(target, fsync=fsync) as output:
        builder = BetonBuilder({}, layout, output)
        for file in files:
            builder.add_file(file.whole)
        size = builder.finish(info, sources)
        output.finish()
    return WriteReport(target, layout.num_samples, size, tally, time.perf_counter() - began)


def _made(path: str | os.PathLike[str], custom: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Field for each custom field of a file."""
    fields = {}
    for item in read_descriptors(path):
        if item.name in custom:
            fields[item.name] = custom[item.name].from_binary(np.frombuffer(item.arguments, np.uint8))
    return fields


def open_whole(path: str | os.PathLike[str], fields: Mapping[str, Field]) -> Whole:
    """Open a file and check its structure; `fields` has at least its custom ones."""
    custom = {item.name for item in read_descriptors(path) if item.type_id == TypeId.CUSTOM}
    records = {name: np.dtype(fields[name].metadata_type) for name in custom if name in fields}
    beton = open_beton(path, records)
    named = {name: fields[name].pointers for name in records if getattr(fields[name], "pointers", ())}
    problems = verify_structure(beton, named)
    if problems:
        raise FormatError(
            f"{beton.path}: {problems[0]}; `ffcv-gpu verify` says more, write or fetch it again"
        )
    info = {} if beton.section is None else beton.section.info
    return Whole(beton, _whole_file(beton, fields), Noted(info, beton.num_samples, beton.source_ids))


def check_same_fields(beton: Beton, other: str, fields: Sequence[FieldDescriptor]) -> None:
    """Refuse, with `PipelineError`, a file whose fields are not these, those of `other`."""
    if beton.fields == tuple(fields):
        return
    ours, theirs = (
        ", ".join(f"{item.name} (type {item.type_id})" for item in items) for items in (beton.fields, fields)
    )
    if ours == theirs:
        ours = theirs = "another dtype or shape of an array, or other arguments of a field"
    raise PipelineError(f"{beton.path} and {other} cannot be one file, their fields differ: {ours}; {theirs}")


def join(noted: Sequence[Noted], tally: Tally) -> tuple[dict[str, Any], list[str] | None]:
    """Return what the joined file says of itself, and its samples' source ids; sum up `tally`."""
    names = [list(part.info["class_names"]) for part in noted if part.info.get("class_names") is not None]
    if any(other != names[0] for other in names):
        other = next(other for other in names if other != names[0])
        where = next((k for k, pair in enumerate(zip(names[0], other)) if pair[0] != pair[1]), None)  # noqa: B905
        differ = (
            f"{len(names[0])} and {len(other)}" if where is None else f"class {where} is {names[0][where]!r}"
        )
        differ += "" if where is None else f" and {other[where]!r}"
        raise PipelineError(f"the class names differ ({differ}): a label would mean two things")
    info: dict[str, Any] = {"writer": writer_name(), "parts": []}
    if names:
        info["class_names"] = names[0]
    fields = [part.info.get("fields") for part in noted]
    if fields[0] is not None and all(other == fields[0] for other in fields):
        info["fields"] = fields[0]
    for part in noted:
        own = {key: part.info[key] for key in ("writer", "fields", "images") if key in part.info}
        info["parts"] += part.info.get("parts", [{**own, "samples": part.samples}])
    skipped = [row for part in noted for row in part.info.get("skipped", [])]
    if skipped:
        info["skipped"] = skipped
    counts = [part.info["images"] for part in noted if "images" in part.info]
    if len(counts) == len(noted):
        total = Tally()
        for count in counts:
            total.add(Tally.from_json(count))
        info["images"] = total.as_json()
        tally.modes, tally.transcoded = total.modes, total.transcoded
        tally.rotated, tally.turned = total.rotated, total.turned
    if all(part.source_ids is None for part in noted):
        return info, None
    return info, [text for part in noted for text in part.source_ids or [""] * part.samples]


def _whole_file(beton: Beton, fields: Mapping[str, Field]) -> WholeFile:
    table = beton.allocations
    stored = table[table["size"] > 0]
    begin = end = beton.layout.data_offset
    if len(stored):
        begin = int(stored["ptr"].min()) // beton.page_size * beton.page_size
        end = align_up(int((stored["ptr"] + stored["size"]).max()), beton.page_size)
    data = beton.data[begin : min(end, beton.data_end)]
    places, marked = [], []
    for number, item in enumerate(beton.fields):
        for place in _places(beton, number, item, fields):
            column: npt.NDArray[Any] = np.ndarray(
                (beton.num_samples,), "<u8", beton.metadata.data, place, (beton.metadata.itemsize,)
            )
            stands = beton.find(column) >= 0
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
    return WholeFile(data, begin, beton.metadata, places, marked, table, _checksums(beton), facts)


def _places(beton: Beton, number: int, item: FieldDescriptor, fields: Mapping[str, Field]) -> list[int]:
    """Return the bytes of a record at which pointers of a field may stand."""
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
    """Return what is noted of a field's images, from their headers where nothing is; None: no images."""
    noted = beton.facts(item.name)
    if noted is not None or beton.column(item.name).dtype != RECORD_DTYPES[TypeId.RGB_IMAGE]:
        return noted
    if item.type_id == TypeId.CUSTOM:
        return None
    facts = np.full(beton.num_samples, _NO_FACTS)
    offsets, lengths = beton.offsets(item.name), beton.lengths(item.name)
    for row in np.flatnonzero(beton.column(item.name)["mode"] == ImageMode.JPEG).tolist():
        try:
            header = scan_jpeg(beton.data[offsets[row] : offsets[row] + lengths[row]].tobytes())
        except DecodeError:
            continue  # as damaged there as it was here
        facts[row] = tuple(getattr(header, member) for member in JPEG_FACTS.names or ())
    return facts

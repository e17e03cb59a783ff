"""Merges ``.beton`` files: pages are copied and pointers adjusted; nothing is decoded.

Each payload is compared with its checksum on the way, and damage is refused: the inputs may be deleted
afterwards. Checksums are carried over, not recomputed. Files written by FFCV have none: theirs are computed
here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ffcv_gpu.dataset.agreement import agreed_class_names, check_same_fields
from ffcv_gpu.dataset.stored import stored_fields
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import FileLayout
from ffcv_gpu.writer.arguments import writer_name
from ffcv_gpu.writer.builder import BetonBuilder
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.report import Tally, WriteReport
from ffcv_gpu.writer.shard_merging import merge_shards
from ffcv_gpu.writer.shards import in_order
from ffcv_gpu.writer.whole import Noted, WholeFile, open_whole, read_noted

__all__ = ["join", "merge_files"]


def merge_files(
    paths: Sequence[str | os.PathLike[str]],
    fname: str | os.PathLike[str],
    *,
    custom_fields: Mapping[str, Any] | None = None,
    fsync: bool = True,
) -> WriteReport:
    """Write the samples of several files to one, in the order given.

    All shards of a conversion (``shard=`` of `DatasetWriter`), given in any order, become the file that one
    machine would have written; from WebDataset, a file with the same samples in the same order.

    Parameters
    ----------
    paths : sequence of str or os.PathLike
        Files written by ffcv_gpu or FFCV, with the same fields. One of them may be `fname` itself.
    fname : str or os.PathLike
        Path of the new file, which appears there when it is complete.
    custom_fields : mapping of str to Field class, keyword only
        By field name, for fields of type 255 that are not ours. ``pointers`` of the class must name the
        members of its record that are file offsets.
    fsync : bool, keyword only
        As for `DatasetWriter`.

    Returns
    -------
    WriteReport

    Raises
    ------
    FormatError
        If one of the files is damaged: `ffcv-gpu verify` reports more.
    ReadError
        If one of them cannot be read, or a payload does not match its checksum; the error names file, sample
        and byte offset.
    PipelineError
        If the fields or class names differ, `custom_fields` lacks a field's class or names no field, or a
        shard is missing, given twice, or from another conversion.
    SampleError
        If none of the shards has a sample.
    WriteError
        If the file cannot be written.
    """
    began = time.perf_counter()
    if isinstance(paths, str | os.PathLike):
        raise PipelineError(f"paths must be a list of paths, not {os.fspath(paths)!r}")
    if not paths:
        raise PipelineError("nothing to merge: no files were given; give at least one")
    custom = custom_fields or {}

    def opened(path: str) -> WholeFile:
        return open_whole(path, stored_fields(path, custom).fields)

    names = [os.fspath(path) for path in paths]
    notes = [read_noted(name, stored_fields(name, custom).fields) for name in names]
    shards = in_order([(name, note.info.get("shard")) for name, note in zip(names, notes, strict=True)])
    if shards is not None:
        positions = sum(note.positions for note in notes)
        return merge_shards(shards, positions, opened, os.fspath(fname), fsync=fsync)
    files = [opened(name) for name in names]
    first = files[0].beton
    for file in files[1:]:
        check_same_fields(file.beton.path, file.beton.fields, first.path, first.fields)
    info, sources = join([file.noted for file in files])
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
            builder.add_file(file.contents)
        size = builder.finish(info, sources)
        output.finish()
    tally = Tally.from_json(info["images"]) if "images" in info else Tally()
    return WriteReport(target, layout.num_samples, size, tally, time.perf_counter() - began)


def join(noted: Sequence[Noted]) -> tuple[dict[str, Any], list[str] | None]:
    """Return INFO and the source ids of the joined file."""
    info: dict[str, Any] = {"writer": writer_name(), "parts": []}
    names = agreed_class_names([part.info for part in noted])
    if names is not None:
        info["class_names"] = names
    fields = [part.info.get("fields") for part in noted]
    if fields[0] is not None and all(other == fields[0] for other in fields):
        info["fields"] = fields[0]
    for part in noted:
        own = {key: part.info[key] for key in ("writer", "fields", "images") if key in part.info}
        info["parts"] += part.info.get("parts", [{**own, "samples": part.samples}])
    skipped, before = [], 0
    for part in noted:
        skipped += [[before + row[0], *row[1:]] for row in part.info.get("skipped", [])]
        before += part.positions
    if skipped:
        info["skipped"] = skipped
    if all("images" in part.info for part in noted):
        tally = Tally()
        for part in noted:
            tally.add(Tally.from_json(part.info["images"]))
        info["images"] = tally.as_json()
    if all(part.source_ids is None for part in noted):
        return info, None
    return info, [text for part in noted for text in part.source_ids or [""] * part.samples]

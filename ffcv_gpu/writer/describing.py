"""Describes a conversion and its file: for the journal, the note of a shard, and the section."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ffcv_gpu.errors import FormatError, SampleError, WriteError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import FieldDescriptor, Skipped, crc32c, pack_descriptors
from ffcv_gpu.writer.builder import BetonBuilder
from ffcv_gpu.writer.merging import join
from ffcv_gpu.writer.parts import Job
from ffcv_gpu.writer.report import Tally, WriteReport
from ffcv_gpu.writer.shards import differences
from ffcv_gpu.writer.whole import Noted, WholeFile, read_noted

__all__ = ["conversion_of", "described", "report_of_shard"]


def conversion_of(
    job: Job, info: Mapping[str, Any], descriptors: Sequence[FieldDescriptor]
) -> dict[str, Any]:
    """Return what the file depends on, JSON-compatible; equal for the same conversion on any machine.

    A dataset may have a str attribute ``fingerprint``, which differs when its content has changed.
    """
    fingerprint = getattr(job.dataset, "fingerprint", None)
    return {
        "writer": info["writer"],
        "fields": info["fields"],
        "descriptors": crc32c(pack_descriptors(descriptors)),
        "page_size": job.page_size,
        f"number of {job.things}": len(job.indices),
        "indices": crc32c(repr(job.indices.tolist()).encode()),
        "source_ids": None if job.sources is None else crc32c("\0".join(job.sources).encode()),
        "dataset": fingerprint if isinstance(fingerprint, str) else None,
        "on_error": "skip" if job.skips else "raise",
    }


def described(
    job: Job,
    builder: BetonBuilder,
    info: Mapping[str, Any],
    note: Mapping[str, Any] | None,
    base: WholeFile | None,
) -> tuple[dict[str, Any], Sequence[str] | None]:
    """Return the section's INFO, and each sample's source id.

    Parameters
    ----------
    job : Job
    builder : BetonBuilder
        After the last sample was added.
    info : mapping
        From `arguments.noted`.
    note : mapping, optional
        For a shard only.
    base : WholeFile, optional
        The file that the samples are appended to.

    Raises
    ------
    SampleError
        If there are no samples, unless this is a shard: other shards may have some.
    """
    if not builder.rows and job.shard is None:
        _refuse_nothing(job, builder.skipped)
    info = {**info, **builder.counts()}
    if note is not None:
        info["shard"] = note
    texts = job.sources
    if texts is not None:
        gone = {skip.position for skip in builder.skipped}
        texts = [text for place, text in enumerate(texts[k] for k in job.span) if place not in gone]
    if base is not None:
        new = Noted(info, builder.rows - base.beton.num_samples, texts)
        info, texts = join([base.noted, new])
        if "images" in info:
            builder.tally = Tally.from_json(info["images"])
    return info, texts


def report_of_shard(
    path: str, fields: Mapping[str, Field], note: Mapping[str, Any] | None
) -> WriteReport | None:
    """Return the report of a shard that was written before; None without such a file or without a `note`.

    Raises
    ------
    WriteError
        If the file is not that shard.
    FormatError
        If it is damaged.
    """
    began = time.perf_counter()
    if note is None or not os.path.exists(path):
        return None
    try:
        there = read_noted(path, fields)
    except FormatError as error:
        error.add_note("remove it, and it will be written again")
        raise
    info = there.info
    if "shard" not in info:
        raise WriteError(f"{path} already exists and is not a shard: remove it, or give another name")
    other = differences(info["shard"], note)
    if other or info["shard"]["index"] != note["index"]:
        raise WriteError(
            f"{path} already exists, from another conversion (different {other or 'shard'}): give the same"
            " arguments, or remove it"
        )
    return WriteReport(
        path, there.samples, os.path.getsize(path), Tally.from_json(info["images"]),
        time.perf_counter() - began, tuple(Skipped(*row) for row in info.get("skipped", [])), was_there=True,
    )  # fmt: skip


def _refuse_nothing(job: Job, skipped: Sequence[Skipped]) -> NoReturn:
    if not skipped:
        raise SampleError(f"nothing to write: no samples in the {job.things}; a .beton file needs one")
    raise SampleError(
        f"nothing to write: all {len(skipped)} samples were skipped; the first,"
        f" dataset[{skipped[0].key!r}]: {skipped[0].reason}"
    )

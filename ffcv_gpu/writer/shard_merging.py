"""All shards of a conversion become the file that one machine would have written, byte for byte.

Samples are copied to where they would have been written; nothing is decoded. For tar files, the bytes differ:
one machine stores samples as they arrive from several tar files at once, here they are stored in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ffcv_gpu.errors import SampleError
from ffcv_gpu.format import FileLayout
from ffcv_gpu.writer.builder import BetonBuilder
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.report import Tally, WriteReport
from ffcv_gpu.writer.whole import Contents, WholeFile

__all__ = ["merge_shards"]


def merge_shards(
    paths: Sequence[str], positions: int, opened: Callable[[str], WholeFile], fname: str, *, fsync: bool
) -> WriteReport:
    """Write the file whose shards are at `paths`, all of them and in order.

    Parameters
    ----------
    paths : sequence of str
    positions : int
        Samples of all shards, skipped ones included: one machine would reserve metadata for them too.
    opened : callable
        Opens a shard. Only one is open at a time: there may be more shards than a process may open.
    fname : str
    fsync : bool, keyword only
        As for `DatasetWriter`.
    """
    began = time.perf_counter()
    first = opened(paths[0])
    beton = first.beton
    layout = FileLayout(beton.page_size, positions, beton.fields, beton.layout.dtype)
    info = {name: value for name, value in first.noted.info.items() if name not in ("shard", "skipped")}
    texts: list[str] | None = None if beton.source_ids is None else []
    with OutputFile(fname, fsync=fsync) as output:
        builder = BetonBuilder({}, layout, output)
        for path in paths:
            shard = opened(path)
            _add(shard, builder)
            if texts is not None:
                texts += shard.noted.source_ids or []
        if not builder.rows:
            raise SampleError(f"nothing to merge: none of the {len(paths)} shards has a sample")
        size = builder.finish({**info, **builder.counts()}, texts)
        output.finish()
    return WriteReport(
        fname, builder.rows, size, builder.tally, time.perf_counter() - began, tuple(builder.skipped)
    )


def _add(shard: WholeFile, builder: BetonBuilder) -> None:
    before = builder.rows + len(builder.skipped)
    builder.add_file(_as_written(shard), by_sample=True)
    builder.skipped += [skip._replace(position=before + skip.position) for skip in shard.beton.skipped]
    builder.tally.add(Tally.from_json(shard.noted.info["images"]))


def _as_written(shard: WholeFile) -> Contents:
    """Return a shard with its table in sample order, and only the facts that its writer recorded."""
    beton, old = shard.beton, shard.contents
    order = np.argsort(old.table["sample_id"], kind="stable")
    names = beton.field_names
    facts = {number: rows for number, rows in old.facts.items() if beton.facts(names[number]) is not None}
    return replace(old, table=old.table[order], crcs=old.crcs[order], facts=facts)

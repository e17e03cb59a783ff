"""Writes ``.beton`` files: `DatasetWriter`, `merge_files`, and the reports they return.

``writing`` does what `DatasetWriter` is asked for: ``encoder`` turns samples into payload bytes in a slot of
memory; ``encoding`` runs it in this process or, by ``workers``, in several; ``builder`` puts the slots into
the file in order, with ``pages`` and ``output``; ``journal`` lets an interrupted run resume. ``streams`` are
samples without numbers; ``merging`` joins whole files; ``shards`` splits a conversion between machines.

Who owns what: `Pages` the next free byte of the file, `OutputFile` its descriptor, lock and name,
`BetonBuilder` the metadata and the table until the end, `Journal` what a killed run has written. All of it is
the parent's; a worker has its slots, which it fills and the parent empties, and its row of the shared state.
Every part says whose turn it is (`Job.turns`), so the file does not depend on who is done first.
"""

from __future__ import annotations

from ffcv_gpu.format import MAX_PAGE_SIZE, MIN_PAGE_SIZE
from ffcv_gpu.writer.dataset_writer import DatasetWriter
from ffcv_gpu.writer.merging import merge_files
from ffcv_gpu.writer.report import WriteReport

__all__ = ["MAX_PAGE_SIZE", "MIN_PAGE_SIZE", "DatasetWriter", "WriteReport", "merge_files"]

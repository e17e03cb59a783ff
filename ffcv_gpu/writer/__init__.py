"""Writes ``.beton`` files: `DatasetWriter`, `merge_files`, and what they report at the end.

``encoder`` turns samples into payload bytes in a slot of memory; ``encoding`` has this process do it or, by
``workers``, several; ``builder`` puts the slots into the file in order, with ``pages`` and ``output``;
``journal`` is what a run that was cut off left; ``merging`` puts whole files together; ``shards`` are what
many machines write of one.
"""

from __future__ import annotations

from ffcv_gpu.format import MAX_PAGE_SIZE, MIN_PAGE_SIZE
from ffcv_gpu.writer.dataset_writer import DatasetWriter
from ffcv_gpu.writer.merging import merge_files
from ffcv_gpu.writer.report import WriteReport

__all__ = ["MAX_PAGE_SIZE", "MIN_PAGE_SIZE", "DatasetWriter", "WriteReport", "merge_files"]

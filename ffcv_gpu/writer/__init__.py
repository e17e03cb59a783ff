"""Writes ``.beton`` files: `DatasetWriter`, and what it reports at the end.

``encoder`` turns samples into payload bytes in a slot of memory, in this process or, by ``workers``, in
several; ``builder`` puts the slots into the file in order, with ``pages`` and ``output``.
"""

from __future__ import annotations

from ffcv_gpu.format import MAX_PAGE_SIZE, MIN_PAGE_SIZE
from ffcv_gpu.writer.dataset_writer import DatasetWriter
from ffcv_gpu.writer.report import WriteReport

__all__ = ["MAX_PAGE_SIZE", "MIN_PAGE_SIZE", "DatasetWriter", "WriteReport"]

"""``open``: seconds and memory to open a file of 1.28 million samples (as many as ImageNet has).

The file is sparse: header, metadata, allocation table and, in one of two cases, our section with checksums
and image facts are real, the payloads are holes. Every turn is a new process; imports are excluded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.compare import Case, run_case
from benchmarks.harness import Contender
from benchmarks.options import Bench, positive
from benchmarks.peers import FFCV
from benchmarks.record import Metric, Record
from ffcv_gpu.format import (
    ALLOC_TABLE_TYPE,
    DEFAULT_PAGE_SIZE,
    JPEG_FACTS,
    RECORD_DTYPES,
    FieldDescriptor,
    FileLayout,
    ImageMode,
    TypeId,
    build_section,
    metadata_dtype,
    pack_descriptors,
    pack_header,
    section_size,
)

__all__ = ["BENCH", "sparse_file"]

METRICS = [
    Metric("Loader made", "s", "loader_seconds", ratio=True),
    Metric("growth", "MB", "loader_growth.rss", scale=1e-6),
    Metric("of which not file pages", "MB", "loader_growth.anonymous", scale=1e-6),
    Metric("open_beton", "s", "open_seconds"),
    Metric("with lengths", "s", "lengths_seconds"),
]

#: width and height of every image, and bytes of its JPEG
WIDTH, HEIGHT, PAYLOAD = 500, 375, 110_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    parser.add_argument("--samples", type=positive, default=1_281_167, help="samples in the file")


def run(arguments: argparse.Namespace) -> Record:
    """Write the files and open them."""
    python, missing = FFCV.find(arguments.ffcv_python)
    ffcv = Contender("FFCV", FFCV.script, {}, python, missing)
    rows = []
    for name, sealed in (("as FFCV writes", False), ("with checksums and facts", True)):
        path, small = (
            sparse_file(arguments.work / f"open-{size}-{int(sealed)}.beton", size, sealed=sealed)
            for size in (arguments.samples, 4)
        )
        rows += run_case(
            Case(
                f"{arguments.samples:,} samples, {name}",
                1,
                (ffcv, Contender("ffcv_gpu", "own_worker.py")),
                "FFCV",
            ),
            METRICS,
            arguments.turns,
            turn=lambda worker, _, p=path, s=small: worker.ask("open_file", path=str(p), warm=str(s)),
            fresh=True,
        )
        for made in (path, small):
            made.unlink()
    return Record("open", {"samples": arguments.samples, "cache": "warm"}, METRICS, rows)


def sparse_file(path: Path, samples: int, *, sealed: bool) -> Path:
    """Write a ``.beton`` file of images and labels whose payloads are holes; returns `path`.

    Parameters
    ----------
    path
    samples
    sealed
        whether it has the section that our writer adds
    """
    kinds = {"image": TypeId.RGB_IMAGE, "label": TypeId.INT}
    fields = tuple(FieldDescriptor(name, kind) for name, kind in kinds.items())
    layout = FileLayout(
        DEFAULT_PAGE_SIZE, samples, fields, metadata_dtype([RECORD_DTYPES[k] for k in kinds.values()])
    )
    page, place = np.divmod(np.arange(samples), DEFAULT_PAGE_SIZE // PAYLOAD)
    pointers = layout.data_offset + page * DEFAULT_PAGE_SIZE + place * PAYLOAD
    metadata = np.zeros(samples, layout.dtype)
    for member, value in (
        ("mode", ImageMode.JPEG),
        ("width", WIDTH),
        ("height", HEIGHT),
        ("data_ptr", pointers),
    ):
        metadata["f0"][member] = value
    metadata["f1"] = np.arange(samples) % 1000
    table = np.zeros(samples, ALLOC_TABLE_TYPE)
    table["sample_id"], table["ptr"], table["size"] = np.arange(samples), pointers, PAYLOAD
    end = layout.data_offset + (int(page[-1]) + 1) * DEFAULT_PAGE_SIZE
    write_parts(path, layout, metadata, table, end, sealed=sealed)
    return path


def write_parts(
    path: Path, layout: FileLayout, metadata: np.ndarray, table: np.ndarray, end: int, *, sealed: bool
) -> None:
    """Write the parts at their offsets; the gaps are never written."""
    samples, descriptors = len(metadata), pack_descriptors(layout.descriptors)
    size = section_size(num_entries=samples, num_samples=samples, num_facts=1, info={}) if sealed else 0
    header = pack_header(num_fields=len(layout.descriptors), page_size=layout.page_size, num_samples=samples,
                         alloc_table_ptr=end + size)  # fmt: skip
    section = b"" if not sealed else build_section(
        header=header, descriptors=descriptors, metadata=metadata, allocations=table,
        payload_crcs=np.zeros(samples, np.uint32), facts={"image": np.zeros(samples, JPEG_FACTS)}, info={},
    )  # fmt: skip
    with open(path, "wb") as file:
        file.write(header + descriptors + metadata.tobytes())
        file.seek(end)
        file.write(section + table.tobytes())


BENCH = Bench("open", "opening a file of 1.28 million samples: seconds and memory", add_options, run)

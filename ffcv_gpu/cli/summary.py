"""What a file contains, as plain dicts and numbers: shown by ``info``, and by ``doctor`` with a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ffcv_gpu.cli.opening import Opened
from ffcv_gpu.format import ImageMode, JpegFlag, TypeId
from ffcv_gpu.jpeg.facts import facts_in

__all__ = ["summarise"]

SUBSAMPLING: Final[Mapping[int, str]] = {
    0: "4:4:4", 1: "4:2:2", 2: "4:2:0", 3: "4:4:0", 4: "4:1:1", 5: "4:1:0", 6: "grey", -1: "unknown"
}  # fmt: skip
ENCODINGS: Final[Mapping[int, str]] = {
    0xC0: "baseline", 0xC1: "extended sequential", 0xC2: "progressive", 0xC3: "lossless",
    0xC9: "arithmetic", 0xCA: "arithmetic progressive", 0: "unknown",
}  # fmt: skip
#: JPEGs examined in a file without recorded facts: their headers are read one by one, in Python
SCANNED: Final = 512
BINS: Final = 8
#: source ids shown: those of the first samples
SOURCES: Final = 3


def summarise(opened: Opened) -> dict[str, Any]:
    """Return everything that `info` shows, ready for `json.dumps`.

    Reads metadata only, and JPEG headers in a file that does not record JPEG facts.
    """
    beton, section = opened.beton, opened.beton.section
    fields = [_field(opened, name) for name in beton.field_names]
    pages = max(beton.data_end - beton.layout.data_offset, 0) // beton.page_size
    info = dict(section.info) if section is not None else {}
    remote = {} if opened.remote is None else {"local_copy": opened.remote.describe()}
    return {
        "file": beton.path,
        **remote,
        "bytes": beton.size_bytes,
        "version": beton.version,
        "samples": beton.num_samples,
        "page_size": beton.page_size,
        "pages": pages,
        "checksums": section is not None and section.payload_crcs is not None,
        "bytes_by_part": _parts(opened, pages),
        "fields": fields,
        "class_names": None if beton.class_names is None else list(beton.class_names),
        "source_ids": None if beton.source_ids is None else list(beton.source_ids[:SOURCES]),
        "skipped": [list(skip) for skip in beton.skipped],
        "info": info,
    }


def _parts(opened: Opened, pages: int) -> dict[str, int]:
    beton = opened.beton
    payloads = int(beton.allocations["size"].sum())
    parts = {
        "header and fields": beton.layout.metadata_offset,
        "metadata": beton.metadata.nbytes,
        "payloads": payloads,
        "unused in pages": pages * beton.page_size - payloads,
        "checksums and facts": 0 if beton.section is None else beton.section.size_bytes,
        "allocation table": beton.size_bytes - beton.table_offset,
    }
    return {**parts, "padding between parts": beton.size_bytes - sum(parts.values())}


def _field(opened: Opened, name: str) -> dict[str, Any]:
    beton, field = opened.beton, opened.fields[name]
    column = beton.column(name)
    lengths = np.sum([beton.lengths(name, pointer) for pointer in opened.pointers(name)], axis=0)
    summary: dict[str, Any] = {
        "name": name,
        "type": opened.class_name(name),
        "type_id": beton.fields[beton.field_names.index(name)].type_id,
        "payload_bytes": int(np.sum(lengths)),
    }
    if np.ndim(lengths):
        summary["bytes_per_sample"] = _spread(lengths)
    if opened.is_image(name):
        summary |= _images(opened, name)
    elif summary["type_id"] in (TypeId.NDARRAY, TypeId.TENSOR):
        summary["dtype"] = str(np.dtype(field.dtype))
        summary["shape"] = [int(side) for side in field.shape]
    elif column.dtype.kind in "iuf" and len(column):
        summary["values"] = _range(column)
    return summary


def _range(values: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the smallest and the largest number, and how many are NaN; None if all are."""
    numbers = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    low, high = (numbers.min().item(), numbers.max().item()) if len(numbers) else (None, None)
    missing = len(values) - len(numbers)
    return {"min": low, "max": high, **({"nan": missing} if missing else {})}


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {"min": 0, "median": 0.0, "max": 0}
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _images(opened: Opened, name: str) -> dict[str, Any]:
    column = opened.beton.column(name)
    jpeg = column["mode"] == ImageMode.JPEG
    heights, widths = column["height"].astype(np.int64), column["width"].astype(np.int64)
    lengths = opened.beton.lengths(name, *opened.pointers(name))
    return {
        "jpeg": int(jpeg.sum()),
        "raw": int((~jpeg).sum()),
        "jpeg_bytes": int(lengths[jpeg].sum()),
        "raw_bytes": int(lengths[~jpeg].sum()),
        "width": _spread(widths),
        "height": _spread(heights),
        "longer_side": _histogram(np.maximum(heights, widths)),
        **_facts(opened, name, np.flatnonzero(jpeg)),
    }


def _histogram(values: npt.NDArray[np.int64]) -> dict[str, list[int]]:
    """Count values in up to BINS bins of about equal ratio; bin k is edges[k] to edges[k + 1] - 1."""
    # Equal ratios, not equal widths: a single huge photo would leave all others in the first bin.
    high = int(values.max(initial=1)) + 1
    low = int(values.min(initial=high - 1))
    edges = np.unique(np.geomspace(low, high, BINS + 1).round().astype(int))
    return {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()}


def _facts(opened: Opened, name: str, jpegs: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Count the kinds of JPEGs, from the facts recorded in the file or else from a sample's headers."""
    stored = opened.beton.facts(name)
    if stored is not None:
        looked_at, source, facts = len(jpegs), "noted in the file", stored[jpegs]
    else:
        chosen = jpegs[np.unique(np.linspace(0, len(jpegs) - 1, min(SCANNED, len(jpegs))).astype(int))]
        looked_at, source, facts = len(chosen), "headers read now", _scan(opened, name, chosen)
    known = facts if stored is None else stored  # of raw images too: the writer saw their files
    flags = {flag.name: int(((facts["flags"] & flag) != 0).sum()) for flag in JpegFlag}
    return {
        "facts": {"source": source, "jpegs": looked_at},
        "subsampling": _tally(facts["subsampling"], SUBSAMPLING),
        "encoding": _tally(facts["encoding"], ENCODINGS),
        "flags": {str(flag).lower(): number for flag, number in flags.items() if number},
        "rotated": int((known["exif_orientation"] > 1).sum()),
    }


def _scan(opened: Opened, name: str, samples: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    beton = opened.beton
    offsets = beton.offsets(name, *opened.pointers(name))[samples]
    lengths = beton.lengths(name, *opened.pointers(name))[samples]
    if opened.remote is not None:
        opened.remote.bring(offsets, lengths)
    return facts_in(beton.data, offsets, lengths)  # `verify --decode` names the damaged ones


def _tally(values: npt.NDArray[Any], names: Mapping[int, str]) -> dict[str, int]:
    """Count each value under its name, most frequent first."""
    found, numbers = np.unique(values, return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    tally = zip(found[order].tolist(), numbers[order].tolist(), strict=True)
    return {names.get(value, f"0x{value:02X}"): number for value, number in tally}

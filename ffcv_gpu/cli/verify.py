"""``ffcv-gpu verify``: is every byte of the file still as written?"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffcv_gpu.cli.failing import STATUS_DATA, each_file
from ffcv_gpu.cli.opening import CacheDir, CustomFields, FilesOrUrls, Opened, fetch, open_file
from ffcv_gpu.cli.page import count, pairs, progress, size

if TYPE_CHECKING:
    from ffcv_gpu.cli.checking import BadPayload

__all__ = ["verify"]


def verify(
    context: typer.Context,
    files: FilesOrUrls,
    decode: Annotated[
        bool | None,
        typer.Option(
            help="Also decode every JPEG: slower, and the only check without checksums. Default: only if the"
            " file has none.",
            show_default=False,
        ),
    ] = None,
    custom_field: CustomFields = None,
    cache_dir: CacheDir = None,
) -> None:
    """Check that each file is intact: its structure, and every payload against its checksum.

    Files written by ffcv_gpu carry a CRC32C of every payload, so any changed byte is found and its sample
    named. Files written by FFCV have no checksums: their structure is checked and each JPEG is decoded, but
    changed raw pixels and arrays cannot be detected.

    \b
    Examples:
      ffcv-gpu verify train.beton              after a copy or a download
      ffcv-gpu verify train.beton --decode     also checks that every JPEG decodes
      ffcv-gpu verify train.beton || echo bad  exit status 0 for a good file, 1 for a damaged one
      ffcv-gpu verify huge-*.beton             all of them, also if one is damaged or missing
      ffcv-gpu verify s3://bucket/train.beton --cache-dir /nvme/cache    fetches the file and checks the copy
    """
    each_file(context, files, lambda file: _verify(file, decode, custom_field, cache_dir))


def _verify(file: str, decode: bool | None, custom_field: list[str] | None, cache_dir: Path | None) -> int:
    """Check one file and print what was found; return the status."""
    from ffcv_gpu.format import structure_notes, verify_structure

    opened = open_file(file, custom_field, check_sums=False, cache_dir=cache_dir)
    fetch(opened)
    pointers = {name: opened.pointers(name) for name in opened.custom if opened.pointers(name)}
    problems = verify_structure(opened.beton, pointers) + list(_wrong_arrays(opened))
    if decode is None:
        decode = opened.beton.section is None or opened.beton.section.payload_crcs is None
    payloads = _collect(opened, decode)
    checked = payloads[payloads["summed"] | (payloads["height"] > 0)]
    begin = time.perf_counter()
    bad, processes = _check(opened.path, checked)
    seconds = time.perf_counter() - begin
    _report(opened, problems, bad)
    _summary(opened, checked, seconds, processes)
    unchecked = list(_unchecked(opened, payloads, decode))
    pairs([("not checked", sentence) for sentence in unchecked])
    pairs([("odd", sentence) for sentence in structure_notes(opened.beton)])
    if problems or bad:
        samples = len({payload.sample for payload in bad})
        print(f"DAMAGED: {count(len(problems), 'problem')} in the structure, {count(samples, 'bad sample')}")
        return STATUS_DATA
    print("good, as far as it can be checked" if unchecked else "good")
    return 0


def _wrong_arrays(opened: Opened) -> Iterable[str]:
    """Yield what is wrong with array fields: only the field knows the size of its arrays."""
    from ffcv_gpu.errors import FormatError

    for name, field in opened.fields.items():
        wanted = getattr(field, "element_size", None)
        if wanted is None or name in opened.custom:
            continue
        try:
            wrong = (opened.beton.lengths(name) != wanted).nonzero()[0]
        except FormatError:
            continue  # verify_structure has named it
        if len(wrong):
            yield (
                f"field {name!r}: the payload size of {count(len(wrong), 'sample')} (the first is {wrong[0]})"
                f" differs from the {wanted} bytes of an array of {field.dtype} {field.shape}"
            )


def _collect(opened: Opened, decode: bool) -> Any:
    """Return every payload of the file, (n,) `PAYLOAD` sorted by offset.

    They come from the allocation table, which also lists payloads of classes that name no pointer, and
    lists them all even if the metadata is damaged.
    """
    import numpy as np

    from ffcv_gpu.cli.checking import PAYLOAD

    table, section = opened.beton.allocations, opened.beton.section
    rows = np.flatnonzero(table["size"])
    rows = rows[np.argsort(table["ptr"][rows], kind="stable")]
    payloads = np.zeros(len(rows), PAYLOAD)
    for member, source in (("sample", "sample_id"), ("offset", "ptr"), ("length", "size")):
        payloads[member] = table[source][rows]
    if section is not None and section.payload_crcs is not None:
        payloads["crc"], payloads["summed"] = section.payload_crcs[rows], True
    payloads["field"] = -1
    for number, name in enumerate(opened.beton.field_names):
        _mark(payloads, number, opened, name, decode)
    return payloads


def _mark(payloads: Any, number: int, opened: Opened, name: str, decode: bool) -> None:
    """Mark the payloads of this field, and set the sides of its JPEGs."""
    import numpy as np

    from ffcv_gpu.errors import FormatError
    from ffcv_gpu.format import ImageMode

    column = opened.beton.column(name)
    for pointer in opened.pointers(name) if len(payloads) else ():
        try:
            offsets = opened.beton.offsets(name, pointer)
        except FormatError:
            continue  # verify_structure has named it
        samples = np.flatnonzero(offsets)
        at = np.searchsorted(payloads["offset"], offsets[samples])
        at = np.minimum(at, len(payloads) - 1)
        own = payloads["sample"][at] == samples
        at, samples = at[own], samples[own]
        payloads["field"][at] = number
        if decode and opened.is_image(name):
            jpeg = column["mode"][samples] == ImageMode.JPEG
            for side in ("height", "width"):
                payloads[side][at[jpeg]] = column[side][samples[jpeg]]


def _check(path: str, payloads: Any) -> tuple[list[BadPayload], int]:
    """Return the bad payloads, sorted by sample, and the number of processes used."""
    from ffcv_gpu.cli.checking import check_payloads, processes_for

    if not len(payloads):
        return [], 0
    bad: list[BadPayload] = []
    processes = processes_for(payloads)
    with progress() as shown:
        bar = shown.add_task("checking", total=int(payloads["length"].sum()))
        for done_bytes, found in check_payloads(path, payloads, processes):
            bad += found
            shown.advance(bar, done_bytes)
    return sorted(bad), processes


def _report(opened: Opened, problems: list[str], bad: list[BadPayload]) -> None:
    for sentence in problems:
        print(f"structure: {sentence}")
    for payload in bad:
        print(
            f"sample {payload.sample}, {_field_name(opened, payload.field)}, byte {payload.offset}"
            f" ({payload.length} bytes): {payload.reason}"
        )
    if problems or bad:
        print()


def _field_name(opened: Opened, number: int) -> str:
    return f"field {opened.beton.field_names[number]!r}" if number >= 0 else "a field that names no pointers"


def _summary(opened: Opened, checked: Any, seconds: float, processes: int) -> None:
    beton, total = opened.beton, int(checked["length"].sum())
    decoded = int((checked["height"] > 0).sum())
    how = f"{size(total)} in {seconds:.2f} s, {count(processes, 'process', 'processes')}"
    summed = f"{count(len(checked), 'payload')} against their CRC32C, {how}"
    sums = "; header, fields, metadata and table against their CRC32C" if beton.section else ""
    pairs(
        [
            ("file", f"{beton.path}: {count(beton.num_samples, 'sample')}, {size(beton.size_bytes)}"),
            ("local copy", None if opened.remote is None else opened.remote.describe()),
            ("structure", f"pointers, lengths and counts{sums}"),
            ("checksums", summed if checked["summed"].any() else None),
            ("decoded", f"{count(decoded, 'JPEG')}, strictly" if decoded else None),
        ]
    )


def _unchecked(opened: Opened, payloads: Any, decode: bool) -> Iterable[str]:
    """Yield sentences about payloads that had nothing to compare with."""
    import numpy as np

    bare = payloads[~payloads["summed"]]
    for number in np.unique(bare["field"]).tolist():
        mine = bare[bare["field"] == number]
        name, decoded = _field_name(opened, number), int((mine["height"] > 0).sum())
        if decoded:
            yield f"pixels of {count(decoded, 'JPEG')} of {name}: they decode, but may have changed"
        if decoded < len(mine):
            hint = "; --decode decodes its JPEGs" if not decode and number >= 0 and opened.is_image(
                opened.beton.field_names[number]
            ) else ""  # fmt: skip
            yield f"{count(len(mine) - decoded, 'payload')} of {name}: the file has no checksums{hint}"

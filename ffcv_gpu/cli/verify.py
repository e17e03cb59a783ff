"""``ffcv-gpu verify``: is every byte of the file still what was written?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ffcv_gpu.cli.opening import CustomFields, FileArgument, Opened, open_file
from ffcv_gpu.cli.page import count, pairs, progress, size

if TYPE_CHECKING:
    from ffcv_gpu.cli.checking import BadPayload, Payloads

__all__ = ["verify"]


def verify(
    file: FileArgument,
    decode: Annotated[
        bool, typer.Option("--decode", help="Also decode every JPEG: slower, and all there is without checksums.")
    ] = False,
    custom_field: CustomFields = None,
) -> None:
    """Check that a file is whole: its structure, and every payload against its checksum.

    Files written by ffcv_gpu carry a CRC32C of every payload, so any changed byte is found and its
    sample named. Files written by FFCV carry none: there, the structure is checked, and with --decode
    each JPEG is decoded; changed raw pixels and arrays cannot be seen.

    \b
    Examples:
      ffcv-gpu verify train.beton              after a copy or a download
      ffcv-gpu verify old.beton --decode       a file of FFCV's own
      ffcv-gpu verify train.beton || echo bad  the status is 0 for a good file, 1 for a damaged one
    """
    from ffcv_gpu.format import verify_structure

    opened = open_file(file, custom_field, check_sums=False)
    problems = verify_structure(opened.beton)
    payloads, unchecked = _payloads(opened, decode, problems)
    begin = time.perf_counter()
    bad, processes = _check(str(file), payloads)
    seconds = time.perf_counter() - begin
    _report(opened, problems, bad)
    _summary(opened, payloads, unchecked, seconds, processes, decode)
    damaged = len({payload.sample for payload in bad})
    if problems or bad:
        print(f"DAMAGED: {count(len(problems), 'problem')} in the structure, {count(damaged, 'bad sample')}")
        raise typer.Exit(1)
    print("good" if not unchecked else "good, as far as it can be checked")


def _payloads(opened: Opened, decode: bool, problems: list[str]) -> tuple[Payloads | None, list[str]]:
    """Return what can be checked, and sentences about what cannot; `problems` gets what is out of place."""
    from ffcv_gpu.cli.checking import collect, join
    from ffcv_gpu.errors import FormatError

    pieces, unchecked = [], []
    for name in opened.beton.field_names:
        try:
            piece = collect(opened, name, decode=decode)
        except FormatError as error:
            if str(error) not in problems:
                problems.append(str(error))
            unchecked.append(f"payloads of field {name!r}: they cannot be found")
            continue
        if piece is not None and len(piece):
            pieces.append(piece)
            unchecked += _without_sums(opened, name, piece, decode)
    return join(pieces) if pieces else None, unchecked


def _without_sums(opened: Opened, name: str, payloads: Payloads, decode: bool) -> list[str]:
    if payloads.sums is not None:
        return []
    decoded = int((payloads.heights > 0).sum())
    others = len(payloads) - decoded
    lines = []
    if others:
        hint = "; --decode decodes its JPEGs" if opened.is_image(name) and not decode else ""
        lines.append(f"{count(others, 'payload')} of field {name!r}: the file has no checksums{hint}")
    if decoded:
        lines.append(f"{count(decoded, 'JPEG')} of field {name!r}: decoded, but a changed pixel is not seen")
    return lines


def _check(path: str, payloads: Payloads | None) -> tuple[list[BadPayload], int]:
    from ffcv_gpu.cli.checking import check_payloads, processes_for

    bad: list[BadPayload] = []
    if payloads is None or (payloads.sums is None and not payloads.heights.any()):
        return bad, 0
    processes = processes_for(payloads)
    with progress() as shown:
        bar = shown.add_task("checking", total=int(payloads.lengths.sum()))
        for done_bytes, found in check_payloads(path, payloads, processes):
            bad += found
            shown.advance(bar, done_bytes)
    return sorted(bad), processes


def _report(opened: Opened, problems: list[str], bad: list[BadPayload]) -> None:
    for sentence in problems:
        print(f"structure: {sentence}")
    names = opened.beton.field_names
    for payload in bad:
        print(
            f"sample {payload.sample}, field {names[payload.field]!r}, byte {payload.offset}"
            f" ({payload.length} bytes): {payload.reason}"
        )
    if problems or bad:
        print()


def _summary(
    opened: Opened,
    payloads: Payloads | None,
    unchecked: list[str],
    seconds: float,
    processes: int,
    decode: bool,
) -> None:
    beton = opened.beton
    summed = payloads is not None and payloads.sums is not None
    structure = "pointers, lengths and counts" + (", and their checksums" if beton.section else "")
    rows: list[tuple[str, object]] = [
        ("file", f"{beton.path}: {count(beton.num_samples, 'sample')}, {size(beton.size_bytes)}"),
        ("structure", structure),
    ]
    if payloads is not None and processes:
        total = int(payloads.lengths.sum())
        speed = f"{size(total)} in {seconds:.2f} s, {count(processes, 'process').replace('processs', 'processes')}"
        rows.append(("checksums", f"{count(len(payloads), 'payload')}, {speed}" if summed else None))
        if decode:
            rows.append(("decoded", f"{count(int((payloads.heights > 0).sum()), 'JPEG')}"))
    rows += [("not checked", sentence) for sentence in unchecked]
    pairs(rows)

"""``ffcv-gpu info``: what a file contains, without reading its payloads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ffcv_gpu.cli.failing import each_file
from ffcv_gpu.cli.opening import CacheDir, CustomFields, FilesOrUrls, open_file
from ffcv_gpu.cli.page import bars, count, pairs, print_json, size, table

__all__ = ["info", "show"]


def info(
    context: typer.Context,
    files: FilesOrUrls,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    custom_field: CustomFields = None,
    cache_dir: CacheDir = None,
) -> None:
    """Show what each file contains: fields, counts, sizes, JPEG and raw images, resolutions, checksums.

    Only metadata is read, so this is quick at any file size. Files written by ffcv_gpu record how their
    JPEGs are encoded; in others, the headers of 512 JPEGs are read. --json prints one object, of several
    files a list of them.

    \b
    Examples:
      ffcv-gpu info train.beton
      ffcv-gpu info train.beton --json | jq '.fields[] | {name, payload_bytes}'
      ffcv-gpu info s3://bucket/train.beton --cache-dir /nvme/cache
    """
    from ffcv_gpu.cli.summary import summarise

    def summary(file: str) -> dict[str, Any]:
        return summarise(open_file(file, custom_field, cache_dir=cache_dir))

    def shown(file: str) -> int:
        show(summary(file))
        return 0

    if as_json:
        found = list(map(summary, files))
        print_json(found[0] if len(files) == 1 else found)
    else:
        each_file(context, files, shown)


def show(summary: Mapping[str, Any]) -> None:
    """Print a summary for a person."""
    sums = "CRC32C of every payload; `ffcv-gpu verify` checks them"
    names, notes = summary["class_names"], summary["info"]
    sources, skipped, samples = summary["source_ids"], summary["skipped"], summary["samples"]
    changed = notes.get("images", {}).get("transcoded", {})
    pairs(
        [
            ("file", summary["file"]),
            ("local copy", summary.get("local_copy")),
            ("format", f".beton version {summary['version']}, {count(summary['pages'], 'page')} of"
                       f" {summary['page_size'] >> 20} MiB"),
            ("written by", notes.get("writer")),
            ("samples", f"{summary['samples']:,}"),
            ("size", size(summary["bytes"])),
            ("checksums", sums if summary["checksums"] else "none (a plain FFCV file)"),
            ("classes", None if not names else f"{len(names)}: {', '.join(map(str, names[:10]))}"
                                               f"{', ...' if len(names) > 10 else ''}"),
            ("sources", None if sources is None else f"{', '.join(sources)}"
                                                    f"{', ...' if len(sources) < samples else ''}"),
            ("parts", f"{len(parts)}: {', '.join(count(part['samples'], 'sample') for part in parts[:10])}"
                      f"{', ...' if len(parts) > 10 else ''}" if (parts := notes.get("parts")) else None),
            ("shard", f"{shard['index']} (from 0) of {shard['count']}; `ffcv-gpu merge` joins the shards"
                      if (shard := notes.get("shard")) else None),
            ("skipped", f"{count(len(skipped), 'sample')} could not be stored; --json lists them"
                        if skipped else None),
            ("JPEGs changed", ", ".join(f"{n:,} images ({why})" for why, n in changed.items()) or None),
        ]
    )  # fmt: skip
    print()
    rows = [_field_row(field, summary["samples"]) for field in summary["fields"]]
    table(("field", "type", "payload bytes", "per sample", "holds"), rows, wrap_last=True)
    print()
    whole = max(summary["bytes"], 1)
    parts = [(n, size(b), f"{b / whole:.1%}") for n, b in summary["bytes_by_part"].items()]
    table(("part of the file", "bytes", "share"), parts)
    for field in summary["fields"]:
        if "jpeg" in field:
            print()
            _images(field)


def _field_row(field: Mapping[str, Any], samples: int) -> tuple[str, ...]:
    # A shard may have no samples.
    each = size(field["payload_bytes"] / samples) if "bytes_per_sample" in field and samples else "-"
    payload = size(field["payload_bytes"]) if "bytes_per_sample" in field else "-"
    return field["name"], field["type"], payload, each, _holds(field)


def _holds(field: Mapping[str, Any]) -> str:
    if "jpeg" in field:
        return f"{field['jpeg']:,} JPEG, {field['raw']:,} raw"
    if "shape" in field:
        return f"{field['dtype']} ({', '.join(map(str, field['shape']))})"
    if "values" in field:
        return _values(field["values"])
    if "bytes_per_sample" in field:
        spread = field["bytes_per_sample"]
        return f"{spread['min']} to {spread['max']} bytes"
    return ""


def _values(values: Mapping[str, Any]) -> str:
    ends = [values["min"], values["max"]]
    spread = " to ".join(
        f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in ends if end is not None
    )
    missing = f"{values['nan']:,} NaN" if "nan" in values else ""
    return ", ".join(filter(None, (spread, missing)))


def _images(field: Mapping[str, Any]) -> None:
    total = field["jpeg"] + field["raw"]
    print(f"images of field {field['name']!r}")
    kinds = ("jpeg", "raw")
    labels = [f"{kind} ({size(field[f'{kind}_bytes'])})" for kind in kinds]
    bars([field[kind] for kind in kinds], labels, indent="  ")
    print("  longer side, pixels")
    edges = field["longer_side"]["edges"]
    names = [f"{low} to {high - 1}" for low, high in itertools.pairwise(edges)]
    bars(field["longer_side"]["counts"], names, indent="    ")
    pairs(_image_rows(field, total), indent="  ")


def _image_rows(field: Mapping[str, Any], total: int) -> list[tuple[str, object]]:
    facts = field["facts"]
    some = "" if facts["jpegs"] == field["jpeg"] else f", of {facts['jpegs']:,} examined"
    rotated = field["rotated"]
    turn = "`ffcv-gpu write --exif apply` rotates the pixels"
    return [
        ("width", _spread(field["width"])),
        ("height", _spread(field["height"])),
        ("subsampling", _shares(field["subsampling"], some)),
        ("encoding", _shares(field["encoding"], some)),
        ("notes", _shares({name.replace("_", " "): n for name, n in field["flags"].items()}, some)),
        ("EXIF-rotated", f"{rotated:,} of {total:,}; decoders ignore it; {turn}" if rotated else "none"),
    ]  # fmt: skip


def _spread(values: Mapping[str, float]) -> str:
    return f"{values['min']:g} to {values['max']:g}, median {values['median']:g}"


def _shares(counts: Mapping[str, int], some: str) -> str | None:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items()) + some if counts else None

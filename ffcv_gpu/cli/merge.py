"""``ffcv-gpu merge``: merges several files into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffcv_gpu.cli.opening import CustomFields, class_wanted, custom_classes

__all__ = ["merge"]


def merge(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="The files, in order.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DST", help="The file to write.", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
    fsync: Annotated[
        bool, typer.Option(help="Flush the file to disk before it takes its name; safe from power cuts.")
    ] = True,
    custom_field: CustomFields = None,
) -> None:
    """Copy the samples of several files into one, in order; nothing is decoded.

    The files must have the same fields and the same class names, if any. Every payload is compared with its
    checksum, and a damaged one is refused; files written by FFCV have no checksums and get them. DST appears
    under its name only when it is complete.

    Shards (`ffcv-gpu write --shard`) become the file that one machine would have written. They are merged in
    shard order, whatever order they are given in; an error names any that is missing or does not belong.

    \b
    Examples:
      ffcv-gpu merge part-0.beton part-1.beton part-2.beton -o train.beton
      ffcv-gpu merge huge-*-of-00512.beton -o huge.beton
      ffcv-gpu merge old.beton -o summed.beton      add checksums to a file written by FFCV
    """
    from ffcv_gpu.readers import is_url
    from ffcv_gpu.writer import merge_files

    if urls := list(filter(is_url, files)):
        raise typer.BadParameter(
            f"{urls[0]}: merge reads local files only; `ffcv-gpu verify URL --cache-dir DIR` fetches a file, "
            "and prints the path of its copy"
        )
    if output.exists() and not overwrite:
        raise typer.BadParameter(f"{output} exists; --overwrite replaces it")
    with class_wanted():
        print(merge_files(files, output, custom_fields=custom_classes(custom_field), fsync=fsync))

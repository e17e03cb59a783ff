"""``ffcv-gpu merge``: several files become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffcv_gpu.cli.opening import CustomFields, custom_classes

__all__ = ["merge"]


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="The files, in order.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DST", help="The file to write.", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
    fsync: Annotated[
        bool, typer.Option(help="Have the file on the disk before it takes its name; safe from power cuts.")
    ] = True,
    custom_field: CustomFields = None,
) -> None:
    """Put the samples of several files into one, in order, by copying: nothing is decoded.

    The files need the same fields, and the same classes where they have names. Checksums are taken over;
    files of FFCV's own, which have none, get them. DST appears under its name only when it is complete.

    Shards (`ffcv-gpu write --shard`) become the file that one machine would have written. They are taken in
    their order, whatever order they are given in; one that is missing or does not belong is named.

    \b
    Examples:
      ffcv-gpu merge part-0.beton part-1.beton part-2.beton -o train.beton
      ffcv-gpu merge huge-*-of-00512.beton -o huge.beton
      ffcv-gpu merge old.beton -o summed.beton      checksums for a file of FFCV's own
    """
    from ffcv_gpu.writer import merge_files

    if output.exists() and not overwrite:
        raise typer.BadParameter(f"{output} exists; --overwrite replaces it")
    print(merge_files(files, output, custom_fields=custom_classes(custom_field), fsync=fsync))

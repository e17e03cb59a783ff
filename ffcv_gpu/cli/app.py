"""Assembles the commands; an error ends as one line on stderr and a status, without a traceback."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ffcv_gpu.cli.bench import bench
from ffcv_gpu.cli.doctor import doctor
from ffcv_gpu.cli.failing import EXPECTED, failed
from ffcv_gpu.cli.info import info
from ffcv_gpu.cli.merge import merge
from ffcv_gpu.cli.verify import verify
from ffcv_gpu.cli.write import write

__all__ = ["app"]


class _Verbs(TyperGroup):
    """Turns expected exceptions of any command into one line and a status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raise `typer.Exit` in place of ffcv_gpu's exceptions and `OSError`."""
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            raise typer.Exit(failed(error, ctx)) from None


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    no_args_is_help=True,
    # Docstrings contain lists of commands, which must not be parsed as markup.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command(short_help="Pack an image folder, a parquet file or WebDataset shards.")(write)
app.command(short_help="Show what is in files.")(info)
app.command(short_help="Check that files are intact.")(verify)
app.command(short_help="Merge several files into one.")(merge)
app.command(short_help="Measure how fast files load, and where the time goes.")(bench)
app.command(short_help="Show what works here, or what slows the loading of a file.")(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from ffcv_gpu import __version__

        print(f"ffcv-gpu {__version__}")
        raise typer.Exit


@app.callback()
def verbs(
    debug: Annotated[bool, typer.Option("--debug", help="On an error, show the full traceback.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Pack images into one .beton file, inspect and check it, and measure how fast it loads.

    \b
    From a folder with one sub-folder per class to images per second:
      ffcv-gpu write photos/train train.beton
      ffcv-gpu info train.beton
      ffcv-gpu verify train.beton
      ffcv-gpu bench train.beton
    Merge files that were written separately:
      ffcv-gpu merge part-0.beton part-1.beton -o train.beton
    Find out what does not work, or what is slow:
      ffcv-gpu doctor
      ffcv-gpu doctor train.beton

    See 'ffcv-gpu COMMAND --help' for details and examples. Exit status: 0 success, 1 bad data or an option
    that does not suit it, 2 wrong usage or a system error (no such file, no space).
    """

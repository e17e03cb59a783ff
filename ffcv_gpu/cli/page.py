"""How the commands print: lines, aligned pairs and tables on stdout; errors and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["bars", "complain", "count", "pairs", "print_json", "progress", "size", "table"]

PIPE_WIDTH = 200
#: columns for a last column that may be wrapped
WRAPPED = 24


def complain(sentence: str) -> None:
    """Print one line on stderr, apart from the command's output."""
    print(f"ffcv-gpu: {sentence}", file=sys.stderr)


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a mapping or a list as JSON, which has no NaN and no infinity: they become null."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(_finite(value), indent=2, ensure_ascii=not unicode)
    # A file name that is not UTF-8 has lone surrogates; escaped by Python's rule, they are JSON's escapes.
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _visible(text: str) -> str:
    """Return a text whose control characters are escaped: a name in a file may hold any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def pairs(rows: Iterable[tuple[str, object]], indent: str = "") -> None:
    """Print ``name   value`` lines with aligned values; a value of None omits the line."""
    shown = [(name, _visible(str(value))) for name, value in rows if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{indent}{name:<{width}}  {value}".rstrip())


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, wrap_last: bool = False) -> None:
    """Print a table; columns are right-aligned, except the first one and a wrapped last one."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    texts = [[_visible(str(cell)) for cell in row] for row in rows]
    # When piped, rich would assume 80 columns. Whatever does not fit it cuts: then let the terminal wrap.
    widths = [max(map(cell_len, column)) for column in zip(headers, *texts, strict=True)]
    if wrap_last:
        widths[-1] = min(widths[-1], WRAPPED)
    least = sum(widths) + 3 * len(widths)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.width = max(console.width, least)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, header in enumerate(headers):
        last = wrap_last and number == len(headers) - 1
        grid.add_column(header, justify="left" if number == 0 or last else "right", no_wrap=not last)
    for row in texts:
        grid.add_row(*row)
    console.print(grid)


def bars(counts: Sequence[int], labels: Sequence[str], indent: str = "", width: int = 40) -> None:
    """Print a histogram, one line per bin, in ``#`` only: it shows in any terminal and encoding."""
    most, label_width = max(counts, default=0), max(map(len, labels), default=0)
    for label, number in zip(labels, counts, strict=True):
        bar = "#" * max(round(width * number / most), 1) if number else ""
        print(f"{indent}{label:>{label_width}}  {number:>10,}  {bar}".rstrip())


def progress() -> Progress:
    """Return a progress display on stderr, disabled if that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    shown = sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)


def size(size_bytes: float) -> str:
    """Return a human-readable size in decimal units: ``"1.5 GB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 999.5:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB" if size_bytes < 999.5 else f"{size_bytes:,.0f} TB"


def count(number: int, what: str, plural: str | None = None) -> str:
    """Return ``"1 sample"``, ``"2,000 samples"``."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"

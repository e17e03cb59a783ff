"""``tables``: generates the tables and pictures of the documents from ``results/*.json`` alone.

In a document, this command owns the text between ``<!-- table: NAME.json VIEW -->`` and ``<!-- end -->``;
``catalogue.py`` defines it. It is empty if the result does not exist. ``gpu`` instead of NAME.json stands for
all folders of GPU results.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import io
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue import PLOTS, Plot, table_for
from benchmarks.gpu import headline as gpu
from benchmarks.machine import ROOT
from benchmarks.plots import bars
from benchmarks.record import load, write_whole
from benchmarks.views import source

__all__ = ["add_command", "filled", "run"]

MARKED = re.compile(
    r"(?P<begin><!-- table: (?P<result>[\w.-]+)(?: (?P<view>[\w-]+))? -->\n)"
    r"(?:(?!<!-- table:).)*?(?P<end><!-- end -->)",
    re.DOTALL,
)
BEGIN = "<!-- table:"
#: instead of a result's name: the folders of GPU results; and the view that is the headline
GPU, HEADLINE = "gpu", "headline"
#: committed results, relative to the root
FOLDER = "benchmarks/results"
#: documents with tables, and the path from each to the results
DOCUMENTS = {"README.md": FOLDER, "benchmarks/RESULTS.md": "results"}
#: PNG key of the digest of the result that a picture was drawn from
SOURCE = "Source"
#: colours of a picture: enough for smooth edges
COLOURS = 48


def add_command(commands: Any) -> None:
    """Declare the command."""
    words = "generate the documents' tables and pictures from the results"
    parser = commands.add_parser("tables", help=words)
    words = "write nothing; exit with 1 if anything is out of date"
    parser.add_argument("--check", action="store_true", help=words)
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Write what is out of date, or with --check only report it; returns the exit status."""
    results = arguments.root / FOLDER
    if not results.is_dir():
        raise ValueError(f"{results} is not a folder of results")
    documents = [name for name in DOCUMENTS if (arguments.root / name).exists()]
    before = {name: (arguments.root / name).read_text(encoding="utf-8") for name in documents}
    after = {name: filled(text, results, DOCUMENTS[name]) for name, text in before.items()}
    if arguments.check:
        return check(before, after, results)
    for plot in plots_of(results):
        if (results / plot.result).exists() and draw(plot, results / plot.result):
            print(f"drawn: {FOLDER}/plots/{plot.name}.png")
    for name in documents:
        if after[name] != before[name]:
            write_whole(arguments.root / name, after[name].encode())
            print(f"written: {name}")
    return 0


def check(before: Mapping[str, str], after: Mapping[str, str], results: Path) -> int:
    """Print what differs from the results; returns 1 if anything does."""
    lines: list[str] = []
    for name, text in after.items():
        both = before[name].splitlines(), text.splitlines()
        lines += difflib.unified_diff(*both, name, "results", lineterm="")
        lines += stale(text, results, DOCUMENTS[name])
    if lines:
        print("\n".join([*lines, "out of date: run python -m benchmarks tables"]), file=sys.stderr)
    return int(bool(lines))


def filled(document: str, results: Path, folder: str = FOLDER) -> str:
    """Return a document with every table generated again; `ValueError` for an invalid marker.

    `folder` is the path from the document to the results.
    """
    if document.count(BEGIN) != len(MARKED.findall(document)):
        raise ValueError(f"a marker {BEGIN} NAME.json --> is malformed, or has no <!-- end --> after it")

    def again(match: re.Match[str]) -> str:
        inside = block(match["result"], match["view"] or "", results, folder)
        return match["begin"] + inside + match["end"]

    return MARKED.sub(again, document)


def block(result: str, view: str, results: Path, folder: str) -> str:
    """Return the content of a marker: the table, its picture, their source."""
    if result == GPU:
        return gpu_block(view, results, folder)
    try:
        table = table_for(result, view)
    except KeyError:
        raise ValueError(f"the catalogue has no table {view!r} of {result}") from None
    path = results / result
    if not path.exists():
        return ""
    record = load(path)
    lines = table.lines(record)
    if not lines:
        return ""
    found = [plot for plot in PLOTS if plot.name == table.plot]
    pictures = [f"![{one.words}, from {one.result}]({folder}/plots/{one.name}.png)\n" for one in found]
    above = [table.words, ""] if table.words else []
    return "\n".join(["", *above, *lines, "", *pictures, source(record, result, folder), "", ""])


def gpu_block(view: str, results: Path, folder: str) -> str:
    """Return the headline of all GPUs, or a section for each."""
    if view == HEADLINE:
        return "\n".join(["", *gpu.headline(results, folder), "", ""])
    if view:
        raise ValueError(f"there is no table {view!r} of the GPUs' results, only {HEADLINE!r}")
    lines = []
    for path in gpu.folders(results):
        picture = f"![images/s of each library, from {path.name}]({folder}/plots/{path.name}.png)"
        lines += [*gpu.section(path, folder), "", *[picture, ""] * bool(gpu.speeds(path).rows)]
    return "\n".join(["", *(lines or [f"{gpu.NOTHING}.".capitalize(), ""]), ""])


def plots_of(results: Path) -> list[Plot]:
    """Return the pictures of the catalogue, and one per GPU."""
    words = "images/s of each library"
    return [*PLOTS, *(Plot(path.name, path.name, words, bars) for path in gpu.folders(results))]


def draw(plot: Plot, path: Path) -> bool:
    """Draw a picture of a result into ``plots/`` next to it; False if there is nothing to draw."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError(f"pictures need matplotlib ({error}): pip install -e '.[bench]'") from error
    record = gpu.speeds(path) if path.is_dir() else load(path)
    figure = Figure(layout="constrained")
    canvas = FigureCanvasAgg(figure)
    if not plot.draw(record, figure):
        return False
    machine = record.machine
    words = f"{path.name}, commit {record.commit[:7]}, {machine['cpu']}, {machine['cores_usable']} cores"
    figure.supxlabel(words, fontsize=6, color="#666666", x=0.01, ha="left")
    figure.set_dpi(100)
    canvas.draw()
    write_whole(path.parent / "plots" / f"{plot.name}.png", small_png(canvas, digest(path)))
    return True


def small_png(canvas: Any, origin: str) -> bytes:
    """Return a PNG of a few colours, with the digest of its source."""
    from PIL import Image, PngImagePlugin

    written, notes = io.BytesIO(), PngImagePlugin.PngInfo()
    notes.add_text(SOURCE, origin)
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pixels.quantize(COLOURS).save(written, "PNG", optimize=True, pnginfo=notes)
    return written.getvalue()


def stale(document: str, results: Path, folder: str) -> Iterator[str]:
    """Yield the document's pictures that are missing, or were drawn from another version of the result."""
    from PIL import Image

    for plot in plots_of(results):
        place = f"{folder}/plots/{plot.name}.png"
        if place not in document:
            continue
        target = results / "plots" / f"{plot.name}.png"
        if not target.exists():
            yield f"{place} is missing"
            continue
        with Image.open(target) as image:
            if image.info.get(SOURCE) != digest(results / plot.result):
                yield f"{place} was drawn from another {plot.result} than the present one"


def digest(path: Path) -> str:
    """Return the digest of a result that its pictures carry."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return f"{path.name} sha256:{hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()}"

"""Which tables and pictures are made of which result: one entry each, and its marker in the README.

A result that has no entry here has a table of all its rows and metrics, at ``<!-- table: NAME.json -->``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import plots
from benchmarks.plot_train import training
from benchmarks.record import Record, Row
from benchmarks.views import axis_table, beside, by_case, by_name, by_setting, listing, pivot

__all__ = ["PLOTS", "TABLES", "Plot", "Table", "table_for"]


@dataclass(frozen=True)
class Table:
    """What stands at the marker ``<!-- table: RESULT VIEW -->``.

    Attributes
    ----------
    result
        file name in ``results/``
    lines
        makes the table; nothing where the result has nothing for it
    view
        tells several tables of one result apart
    plot
        name of the picture under it
    words
        above it
    """

    result: str
    lines: Callable[[Record], list[str]]
    view: str = ""
    plot: str = ""
    words: str = ""


@dataclass(frozen=True)
class Plot:
    """A picture ``results/plots/NAME.png``: what is in it, in words, and who draws it on a figure."""

    name: str
    result: str
    words: str
    draw: Callable[[Record, Any], bool]


def block(*names: str) -> Callable[[Row], bool]:
    """Rows of these parts of the loader's grid; in results of before the grid all are headlines."""
    return lambda row: row.settings.get("block", "headline") in names


def ran(row: Row) -> bool:
    """What was there to be run; an absent library is no line of a document."""
    return row.failed or not row.missing


def most_cores(record: Record) -> list[str]:
    """What ran on the most cores."""
    most = max((row.settings.get("cores", 0) for row in record.rows), default=0)
    return listing(record, where=lambda row: ran(row) and row.settings["cores"] == most)


def cold(record: Record) -> list[str]:
    """The cold cases and the warm ones of the same files, on as many cores."""
    found = [row.settings for row in record.rows if block("cold")(row)]
    files, most = {row["file"] for row in found}, max((row["cores"] for row in found), default=0)

    def wanted(row: Row) -> bool:
        fits = row.settings["cores"] == most and row.settings.get("file") in files
        return block("fractions", "cold")(row) and fits

    def who(row: Row) -> str:
        return f"{row.name}, {row.settings['cache']}"

    return pivot(record, "images/s", f"images/s, {most} cores", wanted, who, PERCENT)


def fractions(record: Record) -> list[str]:
    """The share of JPEGs across, contenders and cores down."""

    def who(row: Row) -> str:
        return f"{row.name}, {plots.core_words(row.settings['cores'])}"

    return pivot(record, "images/s", "images/s, warm page cache", block("fractions"), who, PERCENT)


COSTS = ("CPU seconds", "images/s per core used", "source megapixels/s", "compressed MB/s", "peak memory")
FIRST = {"first batch of a new process, s": "first_batch_seconds"}

GROWN = ("images/s", "source megapixels/s", "peak memory")
HEADLINE: dict[str, Any] = {"title": "loading, images/s", "where": block("headline")}
#: what a file really has: FFCV draws which images become JPEGs
PERCENT = by_setting("jpeg_percent", "{:g} % JPEG")

TABLES = (
    Table("loader.json", partial(pivot, metric="images/s", **HEADLINE), plot="loader"),
    Table("loader.json", partial(listing, metrics=COSTS, where=block("headline"), once=FIRST), "costs"),
    Table("loader.json", fractions, "fractions", "fractions",
          "A part of the images JPEGs of quality 90, the others raw, all at most 500 px:"),
    Table("loader.json", cold, "cold", words="From the disk, the page cache emptied of the file before every "
          "turn (`os_cache=False`), and from a warm page cache:"),
    Table("write.json", partial(beside, metric="images/s", title="writing, images/s", extra=("file",))),
    Table("open.json", partial(beside, metric="Loader made", title="opening, s", extra=("growth",))),
    Table("memory.json", listing),
    Table("growth.json", partial(axis_table, metrics=GROWN), plot="growth",
          words="How speed and memory of ours grow, along one axis at a time:"),
    Table("kernels.json", partial(pivot, metric="CPU per image", title="CPU per image, ms",
                                  extra={"of the copy bound": " % of the bound"}),
          words="Crop, resize, flip, normalise on one core. The bound is a copy that moves as many bytes:"),
    Table("peers.json", most_cores, "most", "peers"),
    Table("peers.json", partial(listing, where=ran),
          words="Stored JPEGs to augmented batches, each library in the container that it reads:"),
    Table("train.json", listing, plot="train", words="One training step, fed in different ways:"),
    Table("decode.json", partial(pivot, metric="images/s", title="decoding, images/s", where=ran,
                                 rows=by_case, columns=by_name), words="JPEGs to pixels, nothing else:"),
)  # fmt: skip

PLOTS = (
    Plot("loader", "loader.json", "images/s of each contender", plots.bars),
    Plot("fractions", "loader.json", "images/s against the share of JPEGs, by cores", plots.fractions),
    Plot("peers", "peers.json", "images/s of each library", plots.bars),
    Plot("train", "train.json", "rates, epochs and CPU time of each way to feed a step", training),
    Plot("growth", "growth.json", "speed and memory against cores, batch, image size, length", plots.growth),
)


def table_for(result: str, view: str) -> Table:
    """The entry of a marker; a plain one for a result without any. `KeyError` for an unknown view."""
    for table in TABLES:
        if (table.result, table.view) == (result, view):
            return table
    if view:
        raise KeyError(view)
    return Table(result, listing)

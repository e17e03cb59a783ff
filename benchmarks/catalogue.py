"""The tables and pictures of each result, one entry each; a marker in a document shows one.

A result without an entry has a table of all its rows and metrics, at ``<!-- table: NAME.json -->``.
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
    """The content of the marker ``<!-- table: RESULT VIEW -->``.

    Attributes
    ----------
    result
        file name in ``results/``
    lines
        renders the table; empty if the result has no such rows
    view
        name, if a result has several tables
    plot
        name of the picture below
    words
        text above
    """

    result: str
    lines: Callable[[Record], list[str]]
    view: str = ""
    plot: str = ""
    words: str = ""


@dataclass(frozen=True)
class Plot:
    """A picture ``results/plots/NAME.png``: its alternative text and the function that draws it."""

    name: str
    result: str
    words: str
    draw: Callable[[Record, Any], bool]


def block(*names: str) -> Callable[[Row], bool]:
    """Select rows of these blocks of the loader's grid; rows without a block are headlines."""
    return lambda row: row.settings.get("block", "headline") in names


def ran(row: Row) -> bool:
    """Select rows that ran, or should have: documents leave out libraries that were not installed."""
    return row.failed or not row.missing


def most_cores(record: Record) -> list[str]:
    """List the rows with the most cores."""
    most = max((row.settings.get("cores", 0) for row in record.rows), default=0)
    return listing(record, where=lambda row: ran(row) and row.settings["cores"] == most)


def cold(record: Record) -> list[str]:
    """Compare cold cases with warm ones of the same files and number of cores."""
    found = [row.settings for row in record.rows if block("cold")(row)]
    files, most = {row["file"] for row in found}, max((row["cores"] for row in found), default=0)

    def wanted(row: Row) -> bool:
        fits = row.settings["cores"] == most and row.settings.get("file") in files
        return block("fractions", "cold")(row) and fits

    def who(row: Row) -> str:
        return f"{row.name}, {row.settings['cache']}"

    return pivot(record, "images/s", f"images/s, {most} cores", wanted, who, PERCENT)


def fractions(record: Record) -> list[str]:
    """Contenders and cores in rows, shares of JPEGs in columns."""

    def who(row: Row) -> str:
        return f"{row.name}, {plots.core_words(row.settings['cores'])}"

    return pivot(record, "images/s", "images/s, warm page cache", block("fractions"), who, PERCENT)


COSTS = ("CPU seconds", "images/s per core used", "source megapixels/s", "compressed MB/s", "peak memory")
FIRST = {"first batch of a new process, s": "first_batch_seconds"}

GROWN = ("images/s", "source megapixels/s", "peak memory")
HEADLINE: dict[str, Any] = {"title": "loading, images/s", "where": block("headline")}
#: the measured share: FFCV draws which images become JPEGs
PERCENT = by_setting("jpeg_percent", "{:g} % JPEG")

TABLES = (
    Table("loader.json", partial(pivot, metric="images/s", **HEADLINE), plot="loader"),
    Table("loader.json", partial(listing, metrics=COSTS, where=block("headline"), once=FIRST), "costs"),
    Table("loader.json", fractions, "fractions", "fractions",
          "Some of the images as JPEGs of quality 90, the others raw, all at most 500 px, in epochs of few "
          "images, [which slow FFCV down](README.md#how-the-comparison-is-made-fair):"),
    Table("loader.json", cold, "cold", words="From disk, the file dropped from the page cache before every "
          "turn (`os_cache=False`), and from a warm page cache, in as short epochs:"),
    Table("crops.json", partial(pivot, metric="images/s", title="loading, images/s"),
          words="With an index for crops (`RGBImageField(crop_index=True)`), and without:"),
    Table("write.json", partial(beside, metric="images/s", title="writing, images/s", extra=("file",))),
    Table("open.json", partial(beside, metric="Loader made", title="opening, s", extra=("growth",))),
    Table("memory.json", listing),
    Table("growth.json", partial(axis_table, metrics=GROWN), plot="growth",
          words="How the speed and memory of ffcv_gpu grow, along one axis at a time:"),
    Table("kernels.json", partial(pivot, metric="CPU per image", title="CPU per image, ms",
                                  extra={"of the copy bound": " % of the bound"}),
          words="Crop, resize, flip, normalise on one core. The bound is a copy of as many bytes:"),
    Table("peers.json", most_cores, "most", "peers"),
    Table("peers.json", partial(listing, where=ran),
          words="Stored JPEGs to augmented batches, each library with the container that it reads:"),
    Table("train.json", listing, plot="train", words="One training step, fed by different loaders:"),
    Table("decode.json", partial(pivot, metric="images/s", title="decoding, images/s", where=ran,
                                 rows=by_case, columns=by_name), words="JPEGs to pixels, nothing else:"),
)  # fmt: skip

PLOTS = (
    Plot("loader", "loader.json", "images/s of each contender", plots.bars),
    Plot("fractions", "loader.json", "images/s against the share of JPEGs, by cores", plots.fractions),
    Plot("peers", "peers.json", "images/s of each library", plots.bars),
    Plot("train", "train.json", "rates, epochs and CPU time of a step by loader", training),
    Plot("growth", "growth.json", "speed and memory against cores, batch, image size, length", plots.growth),
)


def table_for(result: str, view: str) -> Table:
    """Return a marker's entry, a plain one if there is none; `KeyError` for an unknown view."""
    for table in TABLES:
        if (table.result, table.view) == (result, view):
            return table
    if view:
        raise KeyError(view)
    return Table(result, listing)

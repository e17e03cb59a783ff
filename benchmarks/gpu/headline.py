"""What the documents show of the GPUs' results: a headline table, a section for each GPU, its picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import Run
from benchmarks.gpu.peers import BATCH, PIXELS
from benchmarks.gpu.tables import load, notes, overview_lines, title
from benchmarks.record import Metric, Record, Row
from benchmarks.report import markdown, number

__all__ = ["NOTHING", "folders", "headline", "section", "speeds"]

Runs = Mapping[str, Run]
#: in place of a figure that no experiment has given
NOTHING = "not measured yet"
METRIC = Metric("images/s", "", "images", "seconds")
#: the picture's cases, by the kind of what is compared; what ours are called in it
CASES = {PIXELS: "JPEGs to pixels", BATCH: "JPEGs to augmented batches"}
OURS = {"decode_jpegs": "ffcv_gpu decode_jpegs", "loader, jpeg, all cores": "ffcv_gpu Loader"}


def folders(results: Path) -> list[Path]:
    """Return the folders of results that are a GPU's."""
    return sorted({path.parent for path in results.glob("*/*.jsonl")})


def headline(results: Path) -> list[str]:
    """Return the table of what is promised of a GPU: a column for each that has been measured."""
    found = [{run.name: run for run in load(folder)} for folder in folders(results)]
    names = [next(iter(runs.values())).start["gpu"]["gpu"] for runs in found]
    lines = [[words, *(figure(runs) or NOTHING for runs in found or [{}])] for words, figure in FIGURES]
    return markdown(["on a GPU", *(names or ["figure"])], lines)


def section(folder: Path, place: str) -> list[str]:
    """Return everything of one GPU in short; `place` is the folder as the document sees it."""
    found = load(folder)
    where = f"[{folder.name}]({place}/{folder.name}): {title(found[0])}, {found[0].start['date'][:10]}."
    return [where, "", *overview_lines(found), "", *notes(found)]


# ---- figures: what stands in the headline table


def rows_of(runs: Runs, name: str) -> list[dict[str, Any]]:
    """Return the rows of an experiment's newest run."""
    return runs[name].rows if name in runs else []


def pixels_apart(runs: Runs) -> str:
    """Of the photographs, not of the odd kinds."""
    row = next((r for r in rows_of(runs, "c1_parity") if "photographs: as" in r.get("name", "")), None)
    if row is None:
        return ""
    words = f"{row['name'].partition(':')[0]}: mean difference {number(row['mean'])}, largest {row['max']:g}"
    return words if row["passed"] else f"NOT the same; {words}"


def first_of(name: str, key: str, unit: str = "") -> Callable[[Runs], str]:
    """Return what looks up a value: the first that an experiment has under this name."""

    def figure(runs: Runs) -> str:
        return next((number(row[key]) + unit for row in rows_of(runs, name) if key in row), "")

    return figure


def beside_peers(runs: Runs) -> str:
    """Of each library the faster of its ways."""
    found = [[row for row in runs[name].rows if "peer" in row] for name in runs if name.startswith("t3_")]
    hardest = [min(rows, key=lambda row: float(row["ratio"])) for rows in found if rows]
    return "; ".join(f"{number(row['ratio'])} x {row['peer']}" for row in hardest)


FIGURES: tuple[tuple[str, Callable[[Runs], str]], ...] = (
    ("pixels against libjpeg-turbo's", pixels_apart),
    ("images/s of the loader / of bare nvJPEG", first_of("t2_loader", "of_bare")),
    ("CPU time for each image", first_of("t2_loader", "cpu_us", " us")),
    ("the fused kernel / the bound of memory bandwidth", first_of("e13_kernel", "of_bound")),
    ("against DALI, TorchCodec, nvImageCodec", beside_peers),
)


# ---- the picture


def speeds(folder: Path) -> Record:
    """Return what decoded the same photographs, and what made batches of them, as a record to be drawn."""
    found = load(folder)
    start = found[0].start
    rows = {(row.case, row.name): row for run in found for row in measured(run)}
    return Record("gpu", {}, [METRIC], [rows[key] for key in sorted(rows, key=lambda key: key[0])], [],
                  start["machine"], start["commit"], start["date"])  # fmt: skip


def measured(run: Run) -> Iterator[Row]:
    """Yield the rows of an experiment that compares libraries; nothing of any other."""
    if not run.name.startswith(("t1_decode", "t3_peers")):
        return
    for result in (row for row in run.rows if row["row"] == "result"):
        case, cores = result["case"], run.start["machine"]["cores_usable"]
        repeats = [row for row in run.rows if row["row"] == "repeat" and row["case"] == case]
        row = Row(CASES[result["kind"]], OURS.get(case, case), {"cores": cores}, repeats=repeats)
        row.sum_up([METRIC], None)
        yield row

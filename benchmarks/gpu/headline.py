"""What the documents show of GPU results: a headline table, and a section and picture per GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import Run
from benchmarks.gpu.peers import BATCH, PIXELS
from benchmarks.gpu.suite import EXPERIMENTS
from benchmarks.gpu.t2_loader import SHARED
from benchmarks.gpu.tables import commits, load, notes, overview_lines, places
from benchmarks.record import Metric, Record, Row
from benchmarks.report import markdown, number

__all__ = ["FIGURES", "NOTHING", "folders", "headline", "section", "speeds"]

Runs = Mapping[str, Run]
#: shown if no experiment has measured a figure
NOTHING = "not measured yet"
METRIC = Metric("images/s", "", "images", "seconds")
#: cases of the picture, by kind; prefix of the loader's cases with these images
CASES = {PIXELS: "JPEGs to pixels", BATCH: "JPEGs to augmented batches"}
LOADER = "loader, jpeg"
#: case of the fused kernel that is shown
KERNEL = "rgb, float16, planar, area, 224"
#: runs of examples/cifar10/train.py; those from before it was an experiment are in a separate file
TRAINING, BEFORE = "t4_training", "cifar10.json"


def folders(results: Path) -> list[Path]:
    """Return the folders of GPU results."""
    return sorted({path.parent for path in results.glob("*/*.jsonl")})


def headline(results: Path, place: str) -> list[str]:
    """Return the headline table, a column per GPU, and the source of each column.

    `place` is the path from the document to the results.
    """
    found = {folder: runs_of(folder) for folder in folders(results)}
    names = [next(iter(runs.values())).start["gpu"]["gpu"] for runs in found.values()]
    shown = found.values() or [{}]
    lines = [[words, *(figure(runs) or NOTHING for runs in shown)] for words, _, figure in FIGURES]
    table = markdown(["on a GPU", *(names or ["figure"])], lines)
    sources = [origin(folder, used(runs), place) for folder, runs in found.items() if used(runs)]
    return [*table, *(line for source in sources for line in ("", source))]


def section(folder: Path, place: str) -> list[str]:
    """Return a summary of one GPU; `place` is the path from the document to the results."""
    found, runs = load(folder), runs_of(folder)
    left = [e.name for e in EXPERIMENTS if e.name not in runs]
    missing = [f"- not run: {', '.join(left)}"] if left else []
    trained = training_lines(runs)
    file = BEFORE if TRAINING not in {run.name for run in found} else f"{TRAINING}.jsonl"
    table = ["", *trained, "", f"From [{file}]({place}/{folder.name}/{file})."]
    return [origin(folder, found, place), "", *overview_lines(found), "", *notes(found), *missing,
            *(table if trained else [])]  # fmt: skip


def origin(folder: Path, found: Sequence[Run], place: str) -> str:
    """Return folder, machine, code and date of some runs."""
    day = max(run.start["date"] for run in found)[:10]
    return f"[{folder.name}]({place}/{folder.name}): {places(found)}; {commits(found)}, {day}."


def runs_of(folder: Path) -> dict[str, Run]:
    """Return the latest runs of a folder by name, including the training runs."""
    runs = {run.name: run for run in load(folder)}
    path = folder / BEFORE
    if path.exists() and TRAINING not in runs:
        trained = json.loads(path.read_text(encoding="utf-8"))
        rows = [{"row": "training", **row} for row in trained["runs"]]
        runs[TRAINING] = Run({"experiment": TRAINING, **trained}, rows)
    return runs


def used(runs: Runs) -> list[Run]:
    """Return the runs that the headline's figures come from."""
    starts = tuple(start for _, start, _ in FIGURES)
    return [run for name, run in runs.items() if name.startswith(starts)]


# ---- the figures of the headline table


def rows_of(runs: Runs, name: str, kind: str = "") -> list[dict[str, Any]]:
    """Return the rows of an experiment's latest run, all or those of one kind."""
    rows = runs[name].rows if name in runs else []
    return [row for row in rows if kind in ("", row.get("row"))]


def pixels_apart(runs: Runs) -> str:
    """Return the differences of the photographs, without the unusual kinds."""
    row = next((r for r in rows_of(runs, "c1_parity") if "photographs: as" in r.get("name", "")), None)
    if row is None:
        return ""
    words = f"{row['name'].partition(':')[0]}: mean difference {number(row['mean'])}, largest {row['max']:g}"
    return words if row["passed"] else f"NOT the same; {words}"


def many_batches(runs: Runs) -> str:
    """Return the number of images, and whether all of them were right."""
    rows = [row for row in rows_of(runs, "c6_many", "check") if "bad_images_among_them" in row]
    if not rows:
        return ""
    run, (count, bad) = runs["c6_many"], (rows[-1]["images"], rows[-1]["bad_images_among_them"])
    words = f"{count:,} images, {bad:,} bad ones among them: {'NOT ' * bool(run.failed_checks)}all right"
    return words if run.status == "done" else f"{words} ({run.status})"


def of_bare(runs: Runs) -> str:
    """Return the loader's best rate relative to bare nvJPEG's best, and its rates by cores."""
    rows = rows_of(runs, "t2_loader", "result")
    ours = sorted((row for row in rows if row["case"].startswith(LOADER)), key=speed, reverse=True)
    bare = [speed(row) for row in rows if row["kind"] == PIXELS]
    if not ours or not bare:
        return ""
    each = ", ".join(f"{speed(row):,.0f} on {row['workers']} cores" for row in ours)
    return f"{speed(ours[0]) / max(bare):.2f}: {each}; bare {max(bare):,.0f}"


def speed(row: Mapping[str, Any]) -> float:
    """Return the images/s of a result."""
    return float(row["images_per_second"])


def cpu_time(runs: Runs) -> str:
    """Return the loader's CPU time per image, by cores."""
    rows = [row for row in rows_of(runs, "t2_loader", "result") if row["case"].startswith(LOADER)]
    rows.sort(key=lambda row: int(row["workers"]))
    return ", ".join(f"{number(row['cpu_us_per_image'])} us on {row['workers']} cores" for row in rows)


def together(runs: Runs) -> str:
    """Return how much both decoders together gain, by cores."""
    rows = [row for row in rows_of(runs, "e19_share", "check") if "ratio" in row]
    return ", ".join(f"{row['ratio']:.2f} x on {row['cores']} cores" for row in rows)


def kernel(runs: Runs) -> str:
    """Return the kernel's time against its bound, and the host's time per launch, of one case."""
    rows = [row for row in rows_of(runs, "e13_kernel", "check") if row["name"].startswith(f"{KERNEL}: ")]
    words = [f"{row['of_bound']:.2f}: {number(row['microseconds'])} us, bound "
             f"{number(row['bound_microseconds'])} us" for row in rows if "of_bound" in row]  # fmt: skip
    words += [f"the host's part of a launch: {number(row['microseconds'])} us" for row in rows
              if "a launch takes the host" in row["name"]]  # fmt: skip
    return "; ".join(words)


def beside(kind: str) -> Callable[[Runs], str]:
    """Return a figure that compares with the peers of a kind, each library by its fastest way."""

    def figure(runs: Runs) -> str:
        found = [
            [row for row in rows_of(runs, name, "fact") if "peer" in row and row["kind"] == kind]
            for name in runs
            if name.startswith("t3_")
        ]
        hardest = [min(rows, key=lambda row: float(row["ratio"])) for rows in found if rows]
        hardest.sort(key=lambda row: float(row["ratio"]))
        return "; ".join(f"{number(row['ratio'])} x {row['peer']}" for row in hardest)

    return figure


def trained(runs: Runs) -> str:
    """Return accuracy and seconds of each run, by preset."""
    found: dict[str, list[str]] = {}
    for row in rows_of(runs, TRAINING, "training"):
        words = f"{100 * row['test_accuracy']:.2f} % in {row['epochs'][-1]['seconds']:.1f} s"
        found.setdefault(row["settings"]["preset"], []).append(words)
    return "; ".join(f"preset {preset}: {', '.join(each)}" for preset, each in found.items())


#: row of the headline, prefix of the experiments that measure it, function that formats the figure
FIGURES: tuple[tuple[str, str, Callable[[Runs], str]], ...] = (
    ("pixels compared with libjpeg-turbo", "c1_parity", pixels_apart),
    ("random batches with some bad images", "c6_many", many_batches),
    ("images/s of the loader / of bare nvJPEG (aim: 0.98)", "t2_loader", of_bare),
    ("CPU time of the loader per image (aim: 60 us)", "t2_loader", cpu_time),
    ("the loader, GPU and idle CPU cores decoding / the better one alone (aim: 1.3)", "e19_share", together),
    ("memory-bandwidth bound / time of the fused kernel (aim: 0.7; per launch: 60 us)", "e13_kernel", kernel),
    ("decode_jpegs / other decoders on this GPU, images/s", "t3_", beside(PIXELS)),
    ("the loader / other pipelines on this GPU, images/s (aim: 1.3)", "t3_", beside(BATCH)),
    ("CIFAR-10 training (aims: 94 % in 5 s, 96 % in 30 s)", TRAINING, trained),
)


def training_lines(runs: Runs) -> list[str]:
    """Return a table of the training runs; empty if there are none."""
    rows = [
        [
            f"{run['settings']['preset']}",
            f"{run['settings']['seed']}",
            number(run["settings"]["epochs"]),
            f"{100 * run['test_accuracy']:.2f} %",
            f"{run['epochs'][-1]['seconds']:.1f}",
            f"{sum(epoch['wait_seconds'] for epoch in run['epochs']):.1f}",
        ]
        for run in rows_of(runs, TRAINING, "training")
    ]
    head = ["CIFAR-10, preset", "seed", "epochs", "test accuracy", "s of training", "s of it waiting"]
    return markdown(head, rows) if rows else []


# ---- the picture


def speeds(folder: Path) -> Record:
    """Return the decoders and pipelines that were measured with the same photographs, as a record to draw.

    A contender that several experiments measured, such as ffcv_gpu, is one row with all its repeats.
    """
    found = [run for run in load(folder) if run.name.startswith(("t1_decode", "t2_loader", "t3_peers"))]
    start = max(found or load(folder), key=lambda run: str(run.start["date"])).start
    rows: dict[tuple[str, str], Row] = {}
    for case, name, cores, repeats in (part for run in found for part in measured(run)):
        row = rows.setdefault((case, name), Row(case, name, {"cores": cores}, repeats=[]))
        row.repeats += repeats
    for row in rows.values():
        row.sum_up([METRIC], None)
    shown = [rows[key] for key in sorted(rows, key=lambda key: key[0])]
    return Record("gpu", {}, [METRIC], shown, [], start["machine"], start["commit"], start["date"])


def measured(run: Run) -> Iterator[tuple[str, str, int, list[dict[str, Any]]]]:
    """Yield case, name, cores and repeats of each contender that an experiment measured."""
    for result in (row for row in run.rows if row["row"] == "result"):
        case, workers = result["case"], result.get("workers", "")
        name = case
        if case.startswith("loader"):
            if not case.startswith(LOADER):
                continue
            shared = SHARED if case.endswith(SHARED) else ""
            name = f"ffcv_gpu Loader{f', {workers} cores' if workers else ''}{shared}"
        elif case == "decode_jpegs":
            name = f"ffcv_gpu {case}"
        repeats = [row for row in run.rows if row["row"] == "repeat" and row["case"] == case]
        yield CASES[result["kind"]], name, run.start["machine"]["cores_usable"], repeats

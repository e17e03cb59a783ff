"""``train``: the same training step fed by each loader, side by side: what does the loader take from it?

A narrow ResNet-18 on a CPU, the whole one on a GPU, on JPEGs of at most 500 pixels: the .beton file of
``loader``, and the very same JPEGs as files for torch's DataLoader. After each epoch the same process trains
on batches that lie in its memory: what a loader takes from the step, in time and in CPU seconds, is the
difference of two stretches that follow each other.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.bench_loader import FILES
from benchmarks.compare import Case, run_case
from benchmarks.containers import folder_of
from benchmarks.files import listing
from benchmarks.harness import Contender
from benchmarks.options import Bench, cores_option, positive
from benchmarks.peers import FFCV, FFCV_VERSION
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record
from benchmarks.stored import stored_file

__all__ = ["BENCH"]

METRICS = [
    Metric("samples/s", "", "images", "seconds", ratio=True),
    Metric("an epoch", "s", "seconds"),
    Metric("waiting for data", "s", "wait_seconds"),
    Metric("of the step's own speed", "%", "kept_share", scale=100),
    Metric("the loader's CPU seconds", "per 1,000", "loader_cpu_seconds", "images", scale=1000),
    Metric("idle CPU", "%", "idle_share", scale=100),
    Metric("idle GPU", "%", "gpu_idle_share", scale=100),
]
REFERENCE = "step alone"
WORKER = "train_worker.py"

#: what a step is, unless the command line says otherwise: on a CPU, on a GPU
SIZES = {
    "cpu": {"side": 96, "width": 0.125, "batch_size": 64},
    "cuda": {"side": 224, "width": 1.0, "batch_size": 256},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark takes."""
    cores_option(parser)
    parser.add_argument("--samples", type=positive, default=3072, help="of an epoch: photos over and over")
    parser.add_argument(
        "--device", choices=("auto", *SIZES), default="auto", help="auto: a GPU if there is one"
    )
    parser.add_argument("--side", type=positive, help="pixels of the training images (CPU 96, GPU 224)")
    parser.add_argument("--width", type=float, help="factor of ResNet-18's channels (CPU 0.125, GPU 1)")
    parser.add_argument("--batch-size", type=positive, help="CPU 64, GPU 256")


def run(arguments: argparse.Namespace) -> Record:
    """Write the file if need be, then let all of them train in turns."""
    device = chosen_device(arguments.device)
    sizes = {
        name: default if (given := getattr(arguments, name)) is None else given
        for name, default in SIZES[device].items()
    }
    if sizes["batch_size"] > arguments.samples or sizes["width"] <= 0:
        raise ValueError("--samples must be at least --batch-size, and --width greater than 0")
    python, missing = FFCV.find(arguments.ffcv_python)
    photos = find_photos(arguments.data, arguments.work)
    path, writer = stored_file(FILES["jpeg"], photos, arguments, python)
    files = stored_jpegs(path, min(len(photos.paths), arguments.samples))
    contenders = (
        Contender(REFERENCE, WORKER, {"feed": "memory"}),
        Contender("torch DataLoader, Pillow", WORKER, {"feed": "dataloader"}),
        Contender(f"FFCV {FFCV_VERSION}", WORKER, {"feed": "ffcv"}, python, missing),
        Contender("ffcv_gpu", WORKER, {"feed": "ffcv_gpu"}),
    )
    request: dict[str, Any] = {
        "path": str(path),
        "listing": str(files),
        "samples": arguments.samples,
        **sizes,
    }
    request["device"] = "cpu" if device == "cpu" else "cuda:0"
    rows = []
    for cores in arguments.cores:
        rows += run_case(
            Case(f"ResNet-18, {device}, {cores} cores", cores, contenders, REFERENCE),
            METRICS, arguments.turns,
            turn=lambda worker, _: worker.ask("epoch"),
            prepare=lambda worker, c, n=cores: worker.ask("open_feed", workers=n, **request, **c.settings),
        )  # fmt: skip
    settings = {"device": device, "samples": arguments.samples, **sizes, "order": "random",
                "augmentation": "RandomResizedCrop, RandomHorizontalFlip", "cache": "warm"}  # fmt: skip
    notes = [
        f"{FILES['jpeg'].name}, {path.stat().st_size / 1e6:.0f} MB, by {writer}; the DataLoader reads the "
        "same JPEGs as files",
        "DataLoader: as many workers as cores, which stay, 4 batches ahead each, one Pillow call crops and "
        "resizes, bytes cross processes, torch normalises",
        "torch's own threads sleep while they wait (OMP_WAIT_POLICY=passive), in every process",
        "of the step's own speed, and the loader's CPU seconds: against steps on batches in memory, in the "
        "same process, after each epoch; what is missing from 100 % is lost to the loader",
    ]
    return Record("train", settings | {"photos": photos.facts()}, METRICS, rows, notes)


def chosen_device(given: str) -> str:
    """Return "cpu" or "cuda"; raise if there is no torch, or not the GPU that was asked for."""
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(f"the training step needs torch ({error}): pip install torch") from error
    found = torch.cuda.is_available()
    if given == "cuda" and not found:
        raise RuntimeError("--device cuda, but torch finds no GPU here")
    return ("cuda" if found else "cpu") if given == "auto" else given


def stored_jpegs(path: Path, count: int) -> Path:
    """Return a list of the first `count` JPEGs of a file, which lie beside it as they are, as files."""
    names = sorted(folder_of(path).rglob("*.jpg"), key=lambda name: name.stem)[:count]
    return listing(names, path.with_suffix(".json"))


BENCH = Bench("train", "the same training step fed by each loader", add_options, run, rounds=9)

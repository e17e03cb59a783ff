"""``train``: the same training step fed by each loader: how much does the loader slow it down?

A narrow ResNet-18 on a CPU, the full one on a GPU, on JPEGs of at most 500 pixels: the .beton file of
``loader``, and the same JPEGs as files for torch's DataLoader. After each epoch the same process trains on
batches in memory: the loader's cost, in time and CPU seconds, is the difference of the two.
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

#: defaults of the step, on a CPU and on a GPU
SIZES = {
    "cpu": {"side": 96, "width": 0.125, "batch_size": 64},
    "cuda": {"side": 224, "width": 1.0, "batch_size": 256},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    cores_option(parser)
    parser.add_argument("--samples", type=positive, default=3072, help="samples per epoch, photos repeated")
    parser.add_argument(
        "--device", choices=("auto", *SIZES), default="auto", help="auto: a GPU if there is one"
    )
    parser.add_argument("--side", type=positive, help="side of the images, in pixels (CPU 96, GPU 224)")
    parser.add_argument("--width", type=float, help="factor on ResNet-18's channels (CPU 0.125, GPU 1)")
    parser.add_argument("--batch-size", type=positive, help="images per batch (CPU 64, GPU 256)")


def run(arguments: argparse.Namespace) -> Record:
    """Write the file if needed, then train with each loader in turns."""
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
        "DataLoader: one persistent worker per core, 4 batches ahead each; one Pillow call crops and "
        "resizes, workers send uint8, torch normalises",
        "torch's own threads sleep while they wait (OMP_WAIT_POLICY=passive), in every process",
        "of the step's own speed, and the loader's CPU seconds: relative to steps on batches in memory, in "
        "the same process, after each epoch; what is missing to 100 % is lost to the loader",
    ]
    return Record("train", settings | {"photos": photos.facts()}, METRICS, rows, notes)


def chosen_device(given: str) -> str:
    """Return "cpu" or "cuda"; raises if torch or the requested GPU is missing."""
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(f"the training step needs torch ({error}): pip install torch") from error
    found = torch.cuda.is_available()
    if given == "cuda" and not found:
        raise RuntimeError("--device cuda, but torch finds no GPU")
    return ("cuda" if found else "cpu") if given == "auto" else given


def stored_jpegs(path: Path, count: int) -> Path:
    """Write a list of the first `count` JPEGs of a .beton file, extracted to a folder; returns the list."""
    names = sorted(folder_of(path).rglob("*.jpg"), key=lambda name: name.stem)[:count]
    return listing(names, path.with_suffix(".json"))


BENCH = Bench("train", "the same training step fed by each loader", add_options, run, rounds=9)

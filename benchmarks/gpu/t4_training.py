"""T4: trains the CIFAR-10 example, by preset and seed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Row, fact

__all__ = ["run"]

#: in the work folder: what `examples/cifar10/write.py` has written, and the noise of a rehearsal
FOLDER, NOISE = "cifar10", "cifar10-rehearsal"
SEEDS = {"94": range(5), "96": range(1)}
#: number of images of a rehearsal, and options that make it short
IMAGES, SMALL = (
    64,
    ("--device", "cpu", "--epochs", "1", "--width", "0.05", "--batch-size", "32", "--tta", "0"),
)


def run(bench: Bench) -> Iterator[Row]:
    """Train one after the other in this process; yield a row per training, as the example saves it."""
    small = bench.gpu.rehearsal
    folder = bench.work / (NOISE if small else FOLDER)
    if small:
        _write_noise(folder)
    if not (folder / "train.beton").exists():
        yield fact("no CIFAR-10", words=f"examples/cifar10/write.py FOLDER {folder.name} in --work makes it")
        return
    sys.path.append(str(bench.root / "examples" / "cifar10"))
    train = importlib.import_module("train")
    for preset, seeds in SEEDS.items() if not small else [("94", [0])]:
        accuracies = []
        for seed in seeds:
            words = [str(folder), "--preset", preset, "--seed", str(seed), "--quick", "--warm"]
            options = train.parse([*words, *(SMALL if small else ())])
            train.choose(options)
            yield {"row": "training", **(found := train.train(options))}
            accuracies.append(found["test_accuracy"])
        yield fact(f"preset {preset}: test accuracy, mean of the seeds", mean=float(np.mean(accuracies)),
                   spread=float(np.ptp(accuracies)), seeds=len(accuracies))  # fmt: skip


def _write_noise(folder: Any) -> None:
    from ffcv_gpu.fields import IntField, RGBImageField
    from ffcv_gpu.writer import DatasetWriter

    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    for name in ("train", "test"):
        fields = {"image": RGBImageField(), "label": IntField()}
        writer = DatasetWriter(folder / f"{name}.beton", fields, progress=False)
        writer.from_indexed_dataset([(image, number % 10) for number, image in enumerate(images)])

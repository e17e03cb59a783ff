"""OpenCV as a contender: in torch's DataLoader, and as a bare decoder."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import contender
import cv2
import numpy as np
from crops import random_crop

READ = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class Augmented:
    """The files of a folder, decoded, cropped, resized by area and flipped with probability 1/2."""

    def __init__(self, folder: str, side: int) -> None:
        self.files, self.side = contender.labelled(folder), side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import torch

        cv2.setNumThreads(0)  # in a worker process: the processes are the parallelism
        path, label = self.files[index]
        image = cv2.imread(path, READ)
        y, x, h, w = random_crop(random, *image.shape[:2])
        image = cv2.resize(image[y : y + h, x : x + w], (self.side, self.side), interpolation=cv2.INTER_AREA)
        if random.random() < 0.5:
            image = cv2.flip(image, 1)
        return torch.from_numpy(image), label


def make_loader(
    folder: str, batch_size: int, workers: int, side: int, prefetch_factor: int = 2,
    persistent_workers: bool = True, **_: Any,
) -> Any:  # fmt: skip
    """Return a DataLoader over the folder: uint8 NHWC and labels."""
    from torch_parts import data_loader

    return data_loader(
        Augmented(folder, side), batch_size, workers,
        prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
    )  # fmt: skip


def make_decoder(
    files: Sequence[bytes], threads: int, opencv_threads: int = 1, **_: Any
) -> Callable[[], Any]:
    """Decode in our threads, one image per thread, to RGB arrays."""
    cv2.setNumThreads(opencv_threads)
    return contender.by_threads(
        lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), READ), files, threads
    )


if __name__ == "__main__":
    contender.serve(("torch", "opencv-python-headless", "numpy"), make_loader, make_decoder)

"""The other side of the comparison: torch's DataLoader, Pillow's decoding, torchvision's augmentation.

The same recipe as the pipeline in train.py: alternating flips, shifts of at most `padding` pixels of the
reflected image, normalisation. ffcv_gpu touches no pixels here.
"""

from __future__ import annotations

import argparse
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from cifar10_images import open_split
from PIL import Image

from ffcv_gpu.errors import BackendUnavailable


@functools.cache
def torchvision_transforms() -> Any:
    """Return torchvision.transforms, even if its compiled operators do not match this torch."""

    def ignore(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return lambda function: function

    try:
        # With another build of torch, torchvision has no operators, and registering a fake implementation of
        # a missing operator raises. The Python parts work without them.
        with mock.patch.object(torch.library, "register_fake", ignore):
            from torchvision import transforms
    except ImportError as error:
        raise BackendUnavailable("--loader torch needs torchvision: pip install torchvision") from error
    return transforms


class Augmented(torch.utils.data.Dataset[Any]):
    """CIFAR-10 images, decoded and augmented one at a time, as in most training scripts."""

    def __init__(self, folder: Path, rows: np.ndarray, padding: int, mean: Any, std: Any, seed: int) -> None:
        transforms = torchvision_transforms()
        images = open_split(folder, "train")
        self._samples = [images[int(row)] for row in rows]
        self._mirrored = np.random.default_rng(seed).random(len(rows)) < 0.5
        self._mirror = transforms.functional.hflip
        self._rest = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=padding, padding_mode="reflect"),
                transforms.ToTensor(),
                transforms.Normalize(mean / 255, std / 255),
            ]
        )
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        stored, label = self._samples[index]
        if isinstance(stored, bytes):
            image = Image.open(io.BytesIO(stored)).convert("RGB")
        else:
            image = Image.fromarray(stored)
        if self._mirrored[index] ^ (self.epoch % 2):
            image = self._mirror(image)
        return self._rest(image), label


class PlainLoader:
    """Iterates like the Loader: each ``iter()`` is one epoch of (images, labels) on the device."""

    def __init__(
        self,
        folder: Path,
        rows: np.ndarray,
        padding: int,
        mean: np.ndarray,
        std: np.ndarray,
        options: argparse.Namespace,
    ) -> None:
        self._dataset = Augmented(folder, rows, padding, mean, std, options.seed)
        self._options = options
        self._loader = torch.utils.data.DataLoader(
            self._dataset,
            options.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=max(0, options.workers),
            generator=torch.Generator().manual_seed(options.seed),
            pin_memory=options.device == "cuda",
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for images, labels in self._loader:
            images = images.to(
                self._options.device,
                self._options.dtype,
                memory_format=torch.channels_last,
                non_blocking=True,
            )
            yield images, labels.to(self._options.device, non_blocking=True)
        self._dataset.epoch += 1

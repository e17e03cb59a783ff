"""Segmentation: an image and its mask, cropped and flipped identically, by one launch each.

    python examples/recipes/segmentation.py scenes.beton

If the *same step objects* are in two pipelines, they draw the same random numbers, so mask and image stay
aligned. The mask is sampled with nearest neighbour. If the file does not exist, it is created from drawn
discs and squares.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from ffcv_gpu.errors import FfcvGpuError, PipelineError
from ffcv_gpu.fields import MaskField, RGBImageField
from ffcv_gpu.fields.decoders import RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.reader import Reader
from ffcv_gpu.transforms import (
    Convert,
    NormalizeImage,
    RandomBrightness,
    RandomHorizontalFlip,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter

CLASSES = ("nothing", "disc", "square")
GREY = np.array([127.5] * 3)


class Scenes:
    """``dataset[i]`` is (image, mask): a disc (1) and a square (2) of the same colour on noise."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        image = rng.integers(0, 120, (80, 100, 3)).astype(np.uint8)
        mask = np.zeros((80, 100), np.uint8)
        colour = tuple(int(value) for value in rng.integers(150, 256, 3))
        x, y = (int(value) for value in rng.integers(18, 62, 2))
        cv2.circle(image, (x, y), 14, colour, -1)
        cv2.circle(mask, (x, y), 14, 1, -1)
        corner = (x + 22 if x < 50 else x - 42, int(rng.integers(5, 55)))
        for canvas, value in ((image, colour), (mask, 2)):
            cv2.rectangle(canvas, corner, (corner[0] + 20, corner[1] + 20), value, -1)
        return image, mask


def write(path: Path, count: int) -> None:
    """Write drawn scenes."""
    fields = {"image": RGBImageField(jpeg_quality=95), "mask": MaskField()}
    DatasetWriter(path, fields, num_workers=1).from_indexed_dataset(Scenes(count))


def make_loader(path: Path, side: int, batch_size: int, device: str, **settings: Any) -> Loader:
    """Return a loader of (images, masks), with masks int64 (N, side, side)."""
    crop, flip = RandomResizedCropRGBImageDecoder((side, side), scale=(0.5, 1)), RandomHorizontalFlip()
    onto = [ToTensor(), ToDevice(device)]
    pipelines: dict[str, Any] = dict.fromkeys(Reader(path).field_names)  # None: not read
    pipelines |= {
        "image": [
            crop,
            flip,
            RandomBrightness(0.2),
            *onto,
            ToTorchImage(),
            NormalizeImage(GREY, GREY, np.float32),
        ],
        "mask": [crop, flip, *onto, Convert(torch.int64), Squeeze(3)],
    }
    return Loader(path, batch_size, order=OrderOption.RANDOM, seed=0, pipelines=pipelines, **settings)


def network() -> nn.Module:
    """Return a small network with a receptive field of 33 pixels that keeps the image size."""
    layers: list[nn.Module] = []
    for inside, spread in ((3, 1), (24, 2), (24, 4), (24, 8), (24, 1)):
        layers += [nn.Conv2d(inside, 24, 3, padding=spread, dilation=spread), nn.BatchNorm2d(24), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(24, len(CLASSES), 1))


def overlap(shown: torch.Tensor, masks: torch.Tensor) -> list[float]:
    """Return each class's intersection over union."""
    found = []
    for number in range(len(CLASSES)):
        one, other = shown == number, masks == number
        found.append(float((one & other).sum() / (one | other).sum().clamp(min=1)))
    return found


def train(options: argparse.Namespace) -> list[float]:
    """Train; return each class's intersection over union in the last epoch."""
    torch.manual_seed(0)
    if not options.file.exists():
        write(options.file, options.scenes)
    loader = make_loader(options.file, options.side, options.batch_size, options.device)
    if not len(loader) or options.epochs < 1:
        asked = f"--batch-size {options.batch_size} --epochs {options.epochs}"
        raise PipelineError(f"nothing to train on: {options.file} has {len(loader.indices)} images; {asked}")
    model = network().to(options.device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for epoch in range(options.epochs):
        seen = []
        for images, masks in loader:
            logits = model(images)
            loss = nn.functional.cross_entropy(logits, masks)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            seen.append((logits.detach().argmax(1), masks))
        overlaps = overlap(*(torch.cat(part) for part in zip(*seen, strict=True)))
        shown = "   ".join(f"{name} {value:.2f}" for name, value in zip(CLASSES, overlaps, strict=True))
        print(f"epoch {epoch + 1}   loss {loss.item():.3f}   IoU: {shown}")
    return overlaps


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--scenes", type=int, default=400, help="number to draw if the file does not exist")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--device", default="cpu")
    try:
        train(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"segmentation.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

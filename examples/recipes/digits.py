"""Shared by the recipes: scikit-learn's 1797 handwritten digits, their Loaders, a network, and its accuracy.

python examples/recipes/digits.py FOLDER       # writes FOLDER/train.beton and FOLDER/test.beton
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ffcv_gpu.errors import ReadError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.transforms import NormalizeImage, Squeeze, ToDevice, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter

SIDE = 16
GREY = np.array([127.5] * 3)


def write(folder: Path) -> None:
    """Write 1500 digits for training and 297 for testing, enlarged from 8 x 8 to 16 x 16 pixels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    images = [cv2.cvtColor(cv2.resize(image, (SIDE, SIDE)), cv2.COLOR_GRAY2RGB) for image in grey]
    samples = list(zip(images, labels.tolist(), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", samples[:1500]), ("test", samples[1500:])):
        fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
        DatasetWriter(folder / f"{name}.beton", fields, num_workers=1).from_indexed_dataset(part)


def loader(
    path: Path, batch_size: int, device: str = "cpu", *, training: bool, workers: int = -1, **settings: Any
) -> Loader:
    """Return a loader of (images, labels): random crops for training, else centre crops."""
    if not path.is_file():
        raise ReadError(f"{path} is missing; examples/recipes/digits.py FOLDER makes it")
    head: Any = CenterCropRGBImageDecoder((SIDE, SIDE), 1.0)
    if training:
        head = RandomResizedCropRGBImageDecoder((SIDE, SIDE), scale=(0.7, 1), ratio=(0.9, 1.1))
    onto = [ToTensor(), ToDevice(device)]
    pipelines = {
        "image": [head, *onto, ToTorchImage(), NormalizeImage(GREY, GREY, np.float32)],
        "label": [IntDecoder(), *onto, Squeeze(1)],
    }
    order = OrderOption.RANDOM if training else OrderOption.SEQUENTIAL
    return Loader(
        path,
        batch_size,
        order=order,
        drop_last=training,
        seed=0,
        num_workers=workers,
        pipelines=pipelines,
        **settings,
    )


def loaders(
    folder: Path, device: str = "cpu", *, workers: int = -1, **settings: Any
) -> tuple[Loader, Loader]:
    """Return the training loader, which gets the additional `settings`, and the test loader."""
    common: dict[str, Any] = {"device": device, "workers": workers}
    training = loader(folder / "train.beton", 50, training=True, **common, **settings)
    return training, loader(folder / "test.beton", 99, training=False, **common)


def accuracy(model: Any, batches: Any) -> float:
    """Return the share of correctly classified images."""
    import torch

    model.eval()
    with torch.no_grad():
        hits = [(model(images).argmax(1) == labels).float() for images, labels in batches]
    model.train()
    return float(torch.cat(hits).mean())


def network() -> Any:
    """Return a small convolutional network for the digits."""
    from torch import nn

    layers: list[Any] = []
    for inside, outside in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (SIDE // 4) ** 2, 10))


def command_line(document: str) -> argparse.ArgumentParser:
    """Return a parser with the options shared by the recipes for other libraries' training loops."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=-1)
    return parser


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: digits.py FOLDER")
    write(Path(sys.argv[1]))

"""Self-supervised learning: two views of each image, decoded once (SimCLR, arXiv:2002.05709).

    python examples/recipes/self_supervised.py photos.beton

Any file with a field `image` works; labels are not read. Two step objects draw independently; one object used
in both views would draw the same random numbers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ffcv_gpu.errors import FfcvGpuError, PipelineError, ReadError
from ffcv_gpu.fields.decoders import RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.reader import Reader
from ffcv_gpu.transforms import (
    NormalizeImage,
    RandomColorJitter,
    RandomGrayscale,
    RandomHorizontalFlip,
    ToDevice,
    ToTensor,
    ToTorchImage,
)

MEAN = np.array([0.485, 0.456, 0.406]) * 255
STD = np.array([0.229, 0.224, 0.225]) * 255


def steps(device: str) -> list[Any]:
    """Return the steps of a view after its crop: new objects, so that each view draws its own numbers."""
    return [
        RandomHorizontalFlip(),
        RandomColorJitter(0.8, 0.4, 0.4, 0.4, 0.1),
        RandomGrayscale(0.2),
        ToTensor(),
        ToDevice(device),
        ToTorchImage(),
        NormalizeImage(MEAN, STD, np.float32),
    ]


def make_loader(path: Path, side: int, batch_size: int, device: str, **settings: Any) -> Loader:
    """Return a loader of (view, other view)."""
    if not path.is_file():
        raise ReadError(f"{path} is missing; ffcv-gpu write FOLDER {path.name} makes such a file")
    first, second = (RandomResizedCropRGBImageDecoder((side, side), scale=(0.2, 1)) for _ in range(2))
    pipelines: dict[str, Any] = dict.fromkeys(Reader(path).field_names)  # None: not read
    pipelines["image"] = [first, *steps(device)]
    pipelines["other"] = PipelineSpec("image", decoder=second, transforms=steps(device))
    return Loader(path, batch_size, order=OrderOption.RANDOM, seed=0, pipelines=pipelines, **settings)


def contrast(one: torch.Tensor, other: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """Return SimCLR's loss: each view must find its partner among all other views in the batch."""
    both = F.normalize(torch.cat([one, other]).float(), dim=1)
    likeness = both @ both.T / temperature
    likeness.fill_diagonal_(float("-inf"))
    count = len(one)
    partner = torch.arange(2 * count, device=both.device).roll(count)
    return F.cross_entropy(likeness, partner)


def network() -> nn.Module:
    """Return a small encoder with a projection head."""
    layers: list[nn.Module] = []
    for inside, outside in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)
    )


def train(options: argparse.Namespace) -> list[float]:
    """Train; print and return the mean loss of each epoch."""
    torch.manual_seed(0)
    loader = make_loader(options.file, options.side, options.batch_size, options.device)
    if not len(loader) or options.epochs < 1:
        asked = f"--batch-size {options.batch_size} --epochs {options.epochs}"
        raise PipelineError(f"nothing to train on: {options.file} has {len(loader.indices)} images; {asked}")
    model = network().to(options.device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    means = []
    for epoch in range(options.epochs):
        losses = []
        for one, other in loader:
            loss = contrast(model(one), model(other))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        means.append(float(np.mean(losses)))
        print(
            f"epoch {epoch + 1}   loss {means[-1]:.3f}   by chance {np.log(2 * options.batch_size - 1):.3f}"
        )
    return means


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    try:
        train(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"self_supervised.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A one-minute tour: pack photos into one file, load them augmented, train on them.

    python examples/demo.py [--data FOLDER] [--out FOLDER]

Without ``--data`` it uses photographs that come with scikit-image and scikit-learn; with it, an image folder
(one sub-folder per class).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from photos import PhotoPieces

from ffcv_gpu.convert.image_folder import ImageFolder
from ffcv_gpu.errors import FfcvGpuError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.reader import Reader
from ffcv_gpu.transforms import (
    Cutout,
    NormalizeImage,
    RandomHorizontalFlip,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter

MEAN = np.array([0.485, 0.456, 0.406]) * 255
STD = np.array([0.229, 0.224, 0.225]) * 255
SIDE = 96


def write(data: Path | None, path: Path) -> list[str]:
    """Write photos to `path`, as they come or (those of `data`) 70 % as JPEG; return the class names."""
    dataset: Any = PhotoPieces() if data is None else ImageFolder(data)
    image = (
        RGBImageField() if data is None else RGBImageField(write_mode="proportion", compress_probability=0.7)
    )
    writer = DatasetWriter(path, {"image": image, "label": IntField()}, class_names=dataset.classes)
    print(writer.from_indexed_dataset(dataset), "\n")
    return list(dataset.classes)


def make_loader(path: Path, device: str, batch_size: int) -> Loader:
    """Return a training loader: random-resized-crop, flip, cutout, normalise, in one fused launch."""
    image = [
        RandomResizedCropRGBImageDecoder((SIDE, SIDE), scale=(0.35, 1.0)),
        RandomHorizontalFlip(),
        Cutout(SIDE // 5, fill=tuple(MEAN)),
        ToTensor(),
        ToDevice(device),
        ToTorchImage(),
        NormalizeImage(MEAN, STD, np.float32),
    ]
    label = [IntDecoder(), ToTensor(), ToDevice(device), Squeeze(1)]
    pipelines = {"image": image, "label": label}
    return Loader(path, batch_size, order=OrderOption.RANDOM, seed=0, pipelines=pipelines)


def measure(loader: Loader, seconds: float = 3.0) -> None:
    """Load for `seconds`, and print images/s and where the time went."""
    begin = time.perf_counter()
    next(iter(loader))
    print(f"first batch after {time.perf_counter() - begin:.1f} s (compiled kernels are cached)")
    loader.reset_stats()
    begin, images = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        images += sum(len(batch[0]) for batch in loader)
    elapsed = time.perf_counter() - begin
    print(f"{images / elapsed:,.0f} augmented images/s with {loader.num_workers} worker threads\n")
    print(loader.stats(), "\n")


def contact_sheet(loader: Loader, names: list[str], path: Path) -> None:
    """Save augmented images as a PNG, one column per class."""
    columns: dict[int, list[np.ndarray]] = {}
    for images, labels in loader:
        pixels = (
            images.cpu() * torch.as_tensor(STD).view(3, 1, 1) + torch.as_tensor(MEAN).view(3, 1, 1)
        ).round()
        for image, label in zip(
            pixels.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True
        ):
            columns.setdefault(label, []).append(image)
    chosen = sorted(columns)[:8]
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    rows = [np.hstack([(columns[c] + [blank] * 6)[row] for c in chosen]) for row in range(6)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    print(f"saved {path}: augmented images of {', '.join(names[c] for c in chosen)}\n")


def network(classes: int) -> torch.nn.Module:
    """Return a small convolutional network for SIDE x SIDE images."""
    layers: list[torch.nn.Module] = []
    for inside, outside in ((3, 16), (16, 32), (32, 64)):
        layers += [
            torch.nn.Conv2d(inside, outside, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(outside),
            torch.nn.ReLU(),
        ]
    return torch.nn.Sequential(
        *layers, torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(256, classes)
    )


def train(loader: Loader, classes: int, device: str, steps: int) -> tuple[float, float]:
    """Train for `steps`; return the mean losses of the first and last tenth."""
    torch.manual_seed(0)
    model = network(classes).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses: list[float] = []
    shown, tenth = max(1, steps // 8), max(1, steps // 10)
    while len(losses) < steps:
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if len(losses) % shown == 0:
                print(f"step {len(losses):3d}   loss {np.mean(losses[-shown:]):.3f}")
            if len(losses) == steps:
                break
    return float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))


def run(options: argparse.Namespace) -> None:
    """Run the demo."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "photos.beton"
    names = write(options.data, path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = make_loader(path, device, min(32, Reader(path).num_samples))
    print(loader.explain(), "\n")
    measure(loader)
    contact_sheet(loader, names, options.out / "contact_sheet.png")
    first, last = train(loader, len(names), device, options.steps)
    print(f"\nloss {'fell' if last < first else 'did not fall'} from {first:.3f} to {last:.3f}")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return the exit status, 2 after an expected error (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="image folder, one sub-folder per class")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder for the file and the picture"
    )
    parser.add_argument("--steps", type=int, default=80, help="training steps")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    try:
        run(options)
    except (FfcvGpuError, OSError) as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

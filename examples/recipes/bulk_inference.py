"""Inference on a folder of JPEGs, without a dataset file: decode_jpegs, resize, predict, write CSV.

    python examples/recipes/bulk_inference.py PHOTOS predictions.csv --model weights.pt

`--model` is a program saved by torch.export.save that maps normalised images (N, 3, side, side), for any N,
to logits. Without it, the mean colour of each image is written. Files that cannot be decoded are listed with
their status.
"""

from __future__ import annotations

import argparse
import csv
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ffcv_gpu import decode_jpegs
from ffcv_gpu.decode import DecodeStatus
from ffcv_gpu.errors import FfcvGpuError, PipelineError, ReadError

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def chunks(items: list[Path], size: int) -> Iterator[list[Path]]:
    """Yield `size` items at a time."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def prepared(image: torch.Tensor, side: int) -> torch.Tensor:
    """Return float32 (3, side, side): resized by the shorter side, centre-cropped, normalised."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    pixels = image.permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = pixels[:, top : top + side, left : left + side]
    return (pixels - MEAN.to(pixels.device)) / STD.to(pixels.device)


def predict(model: Any, images: list[torch.Tensor], side: int) -> list[list[float]]:
    """Return a row of numbers per image: the best class and its probability, or the mean colour."""
    if model is None:
        return [[round(float(value), 1) for value in image.float().mean((0, 1))] for image in images]
    with torch.no_grad():
        shares = model(torch.stack([prepared(image, side) for image in images])).softmax(1)
    best = shares.max(1)
    return [[int(k), round(float(p), 4)] for k, p in zip(best.indices, best.values, strict=True)]


def loaded(path: Path) -> Any:
    """Return the network in a file; raise ReadError if there is none."""
    try:
        return torch.export.load(path).module()
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise ReadError(f"--model {path} is no program saved by torch.export.save: {error!r}") from error


def run(options: argparse.Namespace) -> tuple[int, int]:
    """Write the table; return how many images were decoded and how many could not be."""
    if not options.folder.is_dir():
        raise ReadError(f"{options.folder} is not a folder")
    paths = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise ReadError(f"no .jpg or .jpeg files in {options.folder}")
    if options.batch_size < 1 or options.side < 1:
        raise PipelineError("--batch-size and --side must be at least 1")
    model = None if options.model is None else loaded(options.model).to(options.device)
    good = bad = 0
    with options.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        for part in chunks(paths, options.batch_size):
            images, status = decode_jpegs([path.read_bytes() for path in part], device=options.device)
            rows = iter(predict(model, [image for image in images if image is not None], options.side))
            for path, image, code in zip(part, images, status, strict=True):
                name = path.relative_to(options.folder).as_posix()
                table.writerow([name, *next(rows)] if image is not None else [name, DecodeStatus(code).name])
                good, bad = good + (image is not None), bad + (image is None)
    print(f"{good} images, {bad} that could not be decoded; {options.out}")
    return good, bad


def main(arguments: list[str] | None = None) -> int:
    """Predict; return the exit status, 2 after an expected error (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    try:
        run(parser.parse_args(arguments))
    except (FfcvGpuError, OSError) as error:
        print(f"bulk_inference.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
